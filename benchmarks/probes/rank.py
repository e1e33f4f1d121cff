"""The effective rank of a recipe's features with random weights, in percent of their width: what its header compares with.

    python benchmarks/probes/rank.py timeseries/ts2vec_ucr points/lejepa_shapes40 --data ../shared/data

Three draws of the weights for each recipe, on the test samples that the recipe scores. docs/results/recipes.md has what training
leaves.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mmssl.evaluation import Evaluator, extract, random_init
from mmssl.losses.spectrum import effective_rank
from recipes import opened

DRAWS = 3


def shares(name: str, data: Path) -> list[float]:
    """The effective rank of each draw, in percent of the width of the features."""
    recipe, _, pieces = opened(name, data)
    config = pieces.objective.model.config
    evaluator = Evaluator(recipe.section("evaluate"), recipe.section("data"), pieces.processor, config)
    ranks = []
    for seed in range(DRAWS):
        model = random_init(config, seed).eval()
        values = extract(model, pieces.processor, evaluator.sources.test, evaluator.modality, title="rank").values
        ranks.append(100 * effective_rank(values).item() / values.shape[1])
    return ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="as `mmssl list recipes` names them")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets that are not bundled")
    options = parser.parse_args()
    for name in options.recipes:
        print(f"{name}: {', '.join(f'{share:.0f}' for share in shares(name, options.data))} %")


if __name__ == "__main__":
    main()
