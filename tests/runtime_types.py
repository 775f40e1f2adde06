"""The type checker that jaxtyping runs under pytest: beartype, with ints allowed where floats are meant (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
