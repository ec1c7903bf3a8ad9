"""What each choice of the recipe brings: one setting changed at a time.

    python -m benchmarks.ablation FOLDER [--set beauty] [--only LABEL …] [section.key=value …]

FOLDER as for benchmarks.sequences. All variants train six epochs with 64 dims, on one seed: the
table says what helps much, not what helps a little or late.
"""

from __future__ import annotations

from benchmarks.variants import Results, main

BASE = ["train.max_epochs=6", "train.patience=6", "model.dims=64", "train.threads_per_rank=1"]
VARIANTS = {
    "the recipe, 64 dims": [],
    "two blocks": ["model.blocks=2"],
    "SwiGLU and gated residuals": ["model.feed_forward=swiglu", "model.gated_residuals=true"],
    "rotary positions": ["model.positions=rotary"],
    "no positions": ["model.positions=none"],
    "sampled softmax, 4,096 negatives": ["train.loss=sampled_softmax"],
    "gBCE, 4,096 negatives": ["train.loss=gbce"],
    "own items are negatives too": ["train.exclude_own_items=false"],
    "biases start at 0": ["train.start_from_popularity=false"],
    "no attributes": ["model.attributes=false"],
    "no neighbours": ["model.neighbor_weight=0"],
    "joint pre-training terms": ["train.task=pretraining"],
    "no length buckets": ["gold.length_buckets=[50]"],
}


def _report(results: Results) -> None:
    first = next(iter(results.values()))
    print("| | validation NDCG@10 | test | best epoch | events a second |")
    print("| --- | --- | --- | --- | --- |")
    for label, result in results.items():
        found = [result[part]["ndcg_at_10"] for part in ("validation", "test")]
        speed = result["events_per_second"] / first["events_per_second"]
        print(
            f"| {label} | {found[0]:.4f} | {found[1]:.4f} "
            f"| {result['best_epoch']} of {result['epochs']} | {speed:.2f} times |"
        )


if __name__ == "__main__":
    main("ablation", __doc__, BASE, VARIANTS, _report)
