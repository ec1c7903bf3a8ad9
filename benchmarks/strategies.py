"""What each way of exchanging gradients costs and brings, on the same events.

    python -m benchmarks.strategies FOLDER [--set beauty] [--only LABEL …] [section.key=value …]

FOLDER as for benchmarks.sequences. Two ranks of one thread each through Horovod, one seed, the
recipe without attributes and neighbours; the traffic is the payload that a rank sends for each
event that both train on.
"""

from __future__ import annotations

from benchmarks.variants import Results, main

BASE = [
    "train.ranks=2", "train.threads_per_rank=1", "train.max_epochs=12", "train.patience=12",
    "train.per_rank_batch_events=1024", "model.dims=64", "model.attributes=false",
    "model.neighbor_weight=0", "train.checkpoint_every_steps=100000",
]  # fmt: skip
_OF = "train.exchange"
_DEEP = ["model.blocks=4", "train.per_rank_batch_events=2048"]
VARIANTS = {
    "one rank, twice the batch": ["train.ranks=1", "train.per_rank_batch_events=2048"],
    "plain": [],
    "fp16": [f"{_OF}.compression=fp16"],
    "bf16": [f"{_OF}.compression=bf16"],
    "int8": [f"{_OF}.compression=int8"],
    "top-k, 1%": [f"{_OF}.compression=top_k", f"{_OF}.top_k_share=0.01"],
    "PowerSGD, rank 4": [f"{_OF}.compression=power_sgd"],
    "accumulation, 4 batches": ["train.gradient_accumulation=4"],
    "local, average every 8 steps": [f"{_OF}.average_every_steps=8"],
    "local, every 8, 4 steps late": [
        f"{_OF}.average_every_steps=8", f"{_OF}.average_delay_steps=4",
    ],
    "pipeline, 2 stages": ["train.parallel.pipeline_stages=2", *_DEEP],
    "hybrid, 2 replicas of 2 stages": [
        "train.ranks=4", "train.parallel.pipeline_stages=2", *_DEEP,
    ],
}  # fmt: skip


def _report(results: Results) -> None:
    plain = results.get("plain") or next(iter(results.values()))
    whole = max(1.0, plain["sent_bytes_per_event"])
    print("| | bytes an event | share | events a second | validation NDCG@10 | test | best epoch |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for label, result in results.items():
        found = [result[part]["ndcg_at_10"] for part in ("validation", "test")]
        sent = result["sent_bytes_per_event"]
        speed = result["events_per_second"] / plain["events_per_second"]
        print(
            f"| {label} | {sent:,.0f} | {sent / whole:.1%} | {speed:.2f} times "
            f"| {found[0]:.4f} | {found[1]:.4f} | {result['best_epoch']} of {result['epochs']} |"
        )


if __name__ == "__main__":
    main("strategies", __doc__, BASE, VARIANTS, _report)
