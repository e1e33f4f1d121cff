"""Random views of point clouds: turns, stretches, shifts, noise and lost points, drawn per sample."""

from typing import Any

import numpy as np
import pytest
import torch

from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl_modalities.points import PointsAugment, PointsProcessor

DRAWS = Draws(keys(0, 0, torch.arange(4)))


def cloud(n: int = 100, seed: int = 0, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


def assert_same(a: Inputs, b: Inputs, atol: float = 0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol)


def batch_of(features: int = 0) -> Inputs:
    processor = PointsProcessor(num_groups=12, group_size=6, features=features)
    return processor.collate([processor(cloud(60 if i else 9, seed=i, width=3 + features)) for i in range(4)])


def test_by_default_a_view_is_the_sample() -> None:
    batch = batch_of()
    assert_same(PointsAugment()(batch, DRAWS), batch)


@pytest.mark.parametrize(
    "settings",
    [
        {"rotate": "z"},
        {"rotate": "so3"},
        {"scale": (0.5, 2.0)},
        {"shift": 0.5},
        {"jitter": 0.1},
        {"drop": 0.5},
        {"crop": (0.3, 0.8)},
        {"groups": (0.4, 0.4)},
        {"regroup": 1.0},
        {"regroup": 0.5, "rotate": "so3", "scale": (0.7, 1.4), "shift": 0.1, "jitter": 0.05},
        {"crop": (0.5, 0.9), "groups": (0.3, 0.7), "jitter": 0.1, "drop_features": 0.5},
        {"rotate": "so3", "scale": (0.7, 1.4), "shift": 0.1, "jitter": 0.05, "drop": 0.2, "normals": 1},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_a_view_is_a_function_of_each_sample_and_its_draws(settings: dict[str, Any]) -> None:
    batch = batch_of(features=5)
    kept = {name: tensor.clone() for name, tensor in batch.items()}
    augment = PointsAugment(**settings)
    view = augment(batch, DRAWS)
    assert_same(batch, kept)
    assert_same(augment(batch, DRAWS), view)
    kept_groups = {len(view[name][0]) for name in view}
    assert kept_groups == {12} if settings.keys().isdisjoint(("crop", "groups")) else max(kept_groups) < 12
    alone = augment({name: tensor[2:3] for name, tensor in batch.items()}, Draws(DRAWS.keys[2:3]))
    assert_same(alone, {name: tensor[2:3] for name, tensor in view.items()}, 1e-6)
    other = PointsAugment(**settings)(batch, DRAWS.fork(1))
    assert any(not torch.equal(other[name], view[name]) for name in ("points_groups", "points_centers"))


@pytest.mark.parametrize("rotate", ["z", "so3"])
def test_a_turn_moves_groups_and_centres_alike(rotate: Any) -> None:
    batch = batch_of()
    view = PointsAugment(rotate=rotate)(batch, DRAWS)
    for i in range(4):
        before = (batch["points_groups"][i] + batch["points_centers"][i, :, None]).flatten(0, 1).double()
        after = (view["points_groups"][i] + view["points_centers"][i, :, None]).flatten(0, 1).double()
        torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before), rtol=0, atol=1e-4)
        matrix = torch.linalg.lstsq(before, after).solution
        assert torch.linalg.det(matrix).item() == pytest.approx(1, abs=1e-4)
        if rotate == "z":
            torch.testing.assert_close(after[:, 2], before[:, 2], rtol=0, atol=1e-5)
    turned = PointsAugment(rotate=rotate)(
        {name: tensor[:1].expand(64, *tensor.shape[1:]) for name, tensor in batch.items()}, many()
    )
    place = turned["points_centers"][:, 0]
    spread = place.mean(0).norm() if rotate == "so3" else place[:, :2].mean(0).norm()
    assert spread < 0.4 * place.norm(dim=1).mean(), "turns are not spread over all directions"


def many(count: int = 64) -> Draws:
    return Draws(keys(0, 0, torch.arange(count)))


def test_a_stretch_keeps_groups_in_order_and_normals_upright() -> None:
    """Normals of a surface stay at right angles to its stretched tangents."""
    processor = PointsProcessor(num_groups=12, group_size=6, features={"mass": 1, "normal": 3})
    points = cloud(60)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    tangent = np.cross(points, [0.3, 0.5, 0.8])
    raw = np.concatenate([points, points[:, :1], points], 1)
    batch = processor.collate([processor(raw)] * 4)
    view = PointsAugment(scale=(0.5, 2.0), rotate="so3", normals=1)(batch, DRAWS)
    distances = view["points_groups"][..., :3].norm(dim=-1)
    assert (distances[..., 1:] >= distances[..., :-1]).all()
    normals = view["points_groups"][..., 4:7]
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(4, 12, 6))
    before = (batch["points_centers"][0] / 12**0.5 * 2).double()
    after = (view["points_centers"][0] / 12**0.5 * 2).double()
    matrix = torch.linalg.lstsq(before, after).solution
    masses = view["points_groups"][0, :, 0, 3]
    for number in range(12):
        i = int(np.abs(points[:, 0] - masses[number].item()).argmin())
        moved = torch.from_numpy(tangent[i]) @ matrix
        normal = view["points_groups"][0, number, 0, 4:7].double()
        assert abs((moved @ normal).item()) < 1e-4


def test_shift_jitter_and_drop() -> None:
    batch = batch_of()
    shifted = PointsAugment(shift=0.5)(batch, DRAWS)
    assert torch.equal(shifted["points_groups"], batch["points_groups"])
    moves = shifted["points_centers"] - batch["points_centers"]
    torch.testing.assert_close(moves, moves[:, :1].expand_as(moves), rtol=0, atol=1e-6)
    assert moves.abs().max() <= 0.5
    wide = {name: tensor[1:2].expand(200, *tensor.shape[1:]) for name, tensor in batch.items() if name != "points_valid"}
    noisy = PointsAugment(jitter=1e-4)(wide, many(200))["points_groups"] - wide["points_groups"]
    assert noisy[:, :, 0].std() == pytest.approx(1e-4, rel=0.05)
    assert noisy.abs().max() <= 3.1e-4
    thin = PointsAugment(drop=0.5)(wide, many(200))["points_groups"]
    at_centre = (thin.abs().sum(-1) < 1e-6).float().mean(dim=(0, 1))
    assert at_centre[0] == 1
    assert (thin[:, :, 1:].abs().sum(-1) < 1e-6).float().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("key", ["crop", "groups"])
def test_a_view_keeps_a_share_of_the_groups(key: str) -> None:
    """Against numpy: those nearest to one of them, or any, in their order, then padding."""
    processor = PointsProcessor(num_groups=12, group_size=6)
    clouds = [processor(cloud(5 + i % 20, seed=i)) for i in range(40)]
    settings: dict[str, Any] = {key: (0.3, 0.7)}
    view = PointsAugment(**settings)(processor.collate(clouds), many(40))
    assert view["points_centers"].shape[1] == 9
    sets = set()
    for i, sample in enumerate(clouds):
        count = int(view["points_valid"][i].sum())
        share = many(40).between("points crop" if key == "crop" else "points groups share", 0.3, 0.7, 1)[i].item()
        centers = sample["points_centers"].numpy()
        assert count == np.ceil(np.float32(share) * len(centers))
        assert view["points_valid"][i, :count].all()
        assert not view["points_groups"][i, count:].any() and not view["points_centers"][i, count:].any()
        distances = np.linalg.norm(centers[:, None] - centers, axis=2)
        found = view["points_centers"][i, :count].numpy()
        index = [int(np.abs(centers - row).sum(1).argmin()) for row in found]
        assert index == sorted(set(index))
        assert torch.equal(view["points_groups"][i, :count], sample["points_groups"][index])
        nearest = [sorted(row.argsort(kind="stable")[:count].tolist()) == index for row in distances]
        assert any(nearest) or key == "groups"
        sets.add((key == "crop" or not any(nearest), index[0]))
    assert {chosen for chosen, _ in sets} >= {True} and len(sets) > 3


def test_equal_shares_of_equal_clouds_need_no_validity() -> None:
    batch = {name: tensor[1:] for name, tensor in batch_of().items() if name != "points_valid"}
    view = PointsAugment(crop=(0.5, 0.5))(batch, Draws(DRAWS.keys[1:]))
    assert {name: tuple(tensor.shape) for name, tensor in view.items()} == {
        "points_groups": (3, 6, 6, 3),
        "points_centers": (3, 6, 3),
    }


def test_a_cloud_loses_all_of_its_features_or_none() -> None:
    batch = {name: tensor[1:2].expand(300, *tensor.shape[1:]) for name, tensor in batch_of(features=2).items()}
    view = PointsAugment(drop_features=0.3)(batch, many(300))["points_groups"]
    assert torch.equal(view[..., :3], batch["points_groups"][..., :3])
    lost = (view[..., 3:] == 0).flatten(1).all(1)
    assert torch.equal(view[~lost], batch["points_groups"][~lost])
    assert 0.22 < lost.float().mean() < 0.38


def test_bad_keys_of_views() -> None:
    with pytest.raises(ValueError, match=r"augment.scale gives the smallest factor first; got \[2.0, 0.5\]"):
        PointsAugment(scale=(2.0, 0.5))
    with pytest.raises(ValueError, match=r"augment\.normals must be the first of three feature channels; got 1 of 2 channels"):
        PointsAugment(normals=1, rotate="z")(batch_of(features=2), DRAWS)
    with pytest.raises(ValueError, match=r"augment.crop gives the smallest share of the groups first; got \[0.9, 0.5\]"):
        PointsAugment(crop=(0.9, 0.5))
    with pytest.raises(ValueError, match=r"augment.groups gives the smallest share of the groups first; got \[0.9, 0.5\]"):
        PointsAugment(groups=(0.9, 0.5))
