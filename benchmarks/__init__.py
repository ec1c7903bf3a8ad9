"""Every published figure: the command, the machine, the commit, the peers run beside it."""
