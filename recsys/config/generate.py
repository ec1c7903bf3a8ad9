"""Settings of the log generator."""

from __future__ import annotations

from pydantic import Field

from recsys.config.section import Section


class Generate(Section):
    events: int = Field(ge=100, description="events before defects are added (about)")
    users: int = Field(ge=10, description="users")
    items: int = Field(ge=20, description="items in the catalogue at the end")
    days: int = Field(ge=2, description="days of logs, the last one being the date")
    seed: int = Field(description="same seed, same bytes")
    categories: int = Field(ge=2, description="groups of items that tastes are made of")
    taste_days: int = Field(ge=1, description="days after which a part of a user's taste drifts")
    session_steps: int = Field(ge=1, le=1000, description="mean items looked at in a session")
    popular_share: float = Field(ge=0, le=1, description="share of steps off the user's path")
    click_spread: float = Field(
        ge=0,
        description="log-odds by which a click is likelier a rating point that an item is better "
        "or fits the user's taste; 0: every view is clicked alike",
    )
    exact_duplicate_rate: float = Field(ge=0, le=1, description="share of lines written twice")
    near_duplicate_rate: float = Field(ge=0, le=1, description="share repeated a second later")
    late_rate: float = Field(ge=0, le=1, description="share logged 1 to 3 days after they happened")
    malformed_rate: float = Field(ge=0, le=1, description="share of broken lines")
    unknown_type_rate: float = Field(ge=0, le=1, description="share with an unknown event type")
    bad_rating_rate: float = Field(ge=0, le=1, description="share with a rating outside 1 to 5")
    clock_skew_rate: float = Field(ge=0, le=1, description="share stamped days in the future")
    bot_user_rate: float = Field(ge=0, le=1, description="share of users that are bots")
