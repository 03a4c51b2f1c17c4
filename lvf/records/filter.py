"""Models chosen by a condition, as in SQL."""

import pandas as pd

from lvf.errors import UserError
from lvf.records.store import connect


def models_where(models: pd.DataFrame, where: str) -> pd.DataFrame:
    """The trained models that meet an SQL condition on their columns, and the base models.

    Raises:
        UserError: the condition cannot be evaluated, or leaves no model.
    """
    numbered = models.assign(row_number=range(len(models)))
    connection = connect()
    import duckdb

    connection.register("models", numbered)
    try:
        kept = connection.sql(f"select row_number from models where {where}").fetchall()
    except duckdb.Error as error:
        ends = ("_se", "_n", "_delta", "_delta_se", "_path", "_metric")
        columns = ", ".join(name for name in models.columns if not name.endswith(ends))
        raise UserError(
            f"where={where}\n{error}\nThe columns are {columns}; "
            "and those of the scores with _se, _n, _delta and _delta_se."
        ) from error
    chosen = models.index.isin([number for (number,) in kept])
    if not (chosen & (models.method != "base")).any():
        raise UserError(f"where={where} leaves none of {(models.method != 'base').sum()} models")
    return models[chosen | (models.method == "base")]
