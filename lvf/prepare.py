"""`python -m lvf.prepare`: make the token shards of a run and say what is in them."""

from pathlib import Path

from lvf.config.compose import entry_point
from lvf.config.schema import RunConfig
from lvf.log import log_to


def run(cfg: RunConfig) -> None:
    """Prepare, and print a report; with `runtime.prepare_part=i/n` only this machine's part.

    Raises:
        UserError: bad input; nothing half-made is left.
    """
    log_to(Path(cfg.paths.runs) / "log.txt")
    from lvf.data.report import report
    from lvf.data.shards import check_enough, prepare_own_part

    prepared = prepare_own_part(cfg)
    if prepared is None:
        part = cfg.runtime.prepare_part
        print(f"part {part} is ready; the machine that finishes last joins all parts")
        return
    check_enough(prepared, cfg)
    print(report(prepared, cfg))


main = entry_point(run)

if __name__ == "__main__":
    main()
