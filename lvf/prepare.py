"""`python -m lvf.prepare`: make the token shards of a run and say what is in them."""

from lvf.compose import entry_point
from lvf.config import RunConfig


def run(cfg: RunConfig) -> None:
    """Prepare, and print a report.

    Raises:
        UserError: bad input; nothing half-made is left.
    """
    from lvf.data.shards import prepare

    prepared = prepare(cfg)
    s = prepared.stats
    print(
        f"{cfg.data.name}, rows of {cfg.training.seq_len} tokens\n"
        f"documents  {s['documents']:,} to train on, {s['validation_documents']:,} for "
        f"validation, {s['heldout_documents']:,} held out\n"
        f"tokens     {prepared.num_tokens:,}, {prepared.num_loss_tokens:,} of them in the loss\n"
        f"rows       {prepared.num_rows:,}, {s['padding_share']:.1%} padding\n"
        f"lengths    median {s['length_p50']}, 90th percentile {s['length_p90']}, longest "
        f"{s['length_max']} tokens"
    )
    if s["truncated_examples"]:
        print(
            f"cut        {s['truncated_examples']:,} examples lose {s['truncated_tokens']:,} tokens"
        )
    if s["dropped_examples"]:
        print(
            f"left out   {s['dropped_examples']:,} examples ({s['dropped_tokens']:,} tokens) whose "
            "prompt alone fills a row"
        )
    if s["copies_of_held_out"]:
        print(f"left out   {s['copies_of_held_out']:,} copies of held-out prompts")
    print(f"shards     {prepared.folder}")
    print("next       python -m lvf.train with the same settings")


main = entry_point(run)

if __name__ == "__main__":
    main()
