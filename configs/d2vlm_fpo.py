"""D2VLM-3.8B, preferences: factorised preference optimisation after `d2vlm_sft.py` (D2VLM 3).

    tgvlm convert --from ...                             # or a run of configs/d2vlm_sft.py
    tgvlm train --config configs/d2vlm_fpo.py --config.data.shards=runs/et \
        --config.data.annotations=evi.json --config.train.init_from=runs/sft --workdir runs/fpo

Rejected answers are made from the good ones, each worse in one way (objective.perturbation); the
paper's own were never released. Arguments after a colon: `tiny`, `batch=N`, `epochs=N`,
`mesh=v5e-16` (a TPU slice).
"""

import pathlib

from tgvlm_jax.config import load, parse_arg, to_config_dict
from tgvlm_jax.schema import FpoConfig


def get_config(arg: str | None = None):
    """The experiment: what is trained, and how fast, is as in `d2vlm_sft.py` (D2VLM 2.2)."""
    args = parse_arg(arg, tiny=False, batch=32, epochs=1, mesh="")
    first = pathlib.Path(__file__).with_name("d2vlm_sft.py")
    given = f"batch={args.batch},epochs={args.epochs}" + (",tiny" if args.tiny else "")
    given += f",mesh={args.mesh}" if args.mesh else ""
    config = load(f"{first}:{given}")
    config.name = "d2vlm_fpo_tiny" if args.tiny else "d2vlm_fpo"
    with config.unlocked():
        config.objective = to_config_dict(FpoConfig())
    return config
