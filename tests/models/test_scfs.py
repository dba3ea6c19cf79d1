"""SCFS: by hand, against loops, against DINO, and what is searched in which map."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmssl_ext.models.layers import unit
from mmssl_ext.models.layers.stage_head import StageHead
from mmssl_ext.models.memory import Centre, Clock
from mmssl_ext.models.terms import FeatureSearch
from mmssl_ext.models.terms.feature_search import likeness

from .bases import method as of_base
from .bases import views
from .common import SEARCH, build, double, freeze_norms, initialise, sgd, step, total
from .loops import unit as rows

CROPS = ((1, 0), (2, 0), (3, 0), (0, 1), (2, 1), (3, 1))  # 2 + 2
NAMES = dict(target_views=[0, 1], query_views=[0, 1, 2, 3])


def tensor(*values):
    return torch.tensor(values, dtype=torch.double)


def cross_entropy(t, s, sharp=0.5, soft=0.1):
    """Of one target and one prediction, in loops; t is centred already."""
    powers = [math.exp(x / sharp) for x in t]
    z = math.log(sum(math.exp(x / soft) for x in s))
    label = [p / sum(powers) for p in powers]
    return sum(p * (z - x / soft) for p, x in zip(label, s, strict=True))


class Mean(nn.Module):
    """A head that is the direction of the mean cell."""

    def forward(self, maps, weights=None):
        if weights is not None:
            maps = (weights[:, :, None] * maps).flatten(0, 1)
        return unit(maps.flatten(2).mean(2))


def search(stages=1, dim=2):
    """The term alone, with heads that are not trained."""
    term = FeatureSearch(out_channels=dim)
    term.heads = nn.ModuleList(Mean() for _ in range(stages))
    term.centres = Centre(stages, dim).double()
    return term


def teacher(stages=1):
    return SimpleNamespace(stage_heads=[Mean() for _ in range(stages)])


# By hand


def test_search_by_hand():
    """Case A: two cells of two channels."""
    maps = tensor([[[3, 0]], [[4, 5]]])  # 1 x 2 x 1 x 2
    seen = tensor([[2, 1]])
    found = likeness(seen, maps)
    assert found.flatten().tolist() == pytest.approx([0.894427, 0.447214], abs=1e-6)
    searched = (found[:, :, None] * maps).flatten(0, 1)
    torch.testing.assert_close(
        searched.flatten(), tensor(2.683282, 0, 3.577709, 2.236068), rtol=0, atol=1e-6
    )
    row = Mean()(maps, found)
    torch.testing.assert_close(row, tensor([0.419058, 0.907959]), rtol=0, atol=1e-6)
    term, s = search(), tensor([0.894427, 0.447214])
    assert term.compare(row, s, 0.5).item() == pytest.approx(3.261134, abs=1e-5)
    plain = Mean()(maps)
    assert term.compare(plain, s, 0.5).item() == pytest.approx(3.499044, abs=1e-5)


def test_large_views_by_hand():
    """Case B, and the next centre."""
    term = search()
    term.centres.value.copy_(tensor([0.1, -0.1]))
    t, s = tensor([0.6, 0.8], [0.8, 0.6]), tensor([1, 0], [0, 1])
    made = SimpleNamespace(
        target={i: {"stage0": t[i : i + 1]} for i in (0, 1)},
        online={i: {"stage0": s[i : i + 1]} for i in (0, 1)},
    )
    method = SimpleNamespace(target_views=[0, 1], query_views=[0, 1])
    found = term.among_targets(method, made, 0, 0.5).item()
    assert found == pytest.approx(4.050173, abs=1e-6)
    one = term.compare(t[:1] - term.centres.value, s[1:], 0.5).item()
    assert one == pytest.approx(3.100301, abs=1e-6)
    term.remember(dict(total=t.sum(0).view(1, 1, 2), count=torch.tensor([2])))
    torch.testing.assert_close(term.centres.value, tensor([0.16, -0.02]))


def test_floor_and_chance_by_hand():
    """Case C, and ln D for equal outputs."""
    term, one = search(), torch.eye(256).double()[:1]
    found = term.compare(one, one, 0.04).item()
    assert found == pytest.approx(0.011511, abs=1e-6)
    equal = torch.full((3, 256), 1 / 16).double()
    assert term.compare(equal, equal, 0.04).item() == pytest.approx(5.545177, abs=1e-6)


def test_weights_by_hand(monkeypatch):
    """Case D: large views 1 and 3, crops 2 and 4; two stages alike."""
    term = search(stages=2)
    values = {"among_targets": (1 + 3) / 2, "of_crops": (2 + 4) / 2}
    for name, value in values.items():
        monkeypatch.setattr(term, name, lambda *_, found=value: torch.tensor(found))
    method = SimpleNamespace(clock=Clock())
    assert term(method, None).item() == pytest.approx(2 * 2.5)


def test_losses_equal_the_loop():
    """Two stages, three images, two crops."""
    generator = torch.Generator().manual_seed(0)
    term = search(stages=2, dim=4)
    term.centres.value.copy_(0.1 * torch.randn(2, 4, generator=generator))

    def features(number, view, online):
        maps = torch.randn(3, 4, 2, 2, generator=generator).double()
        kept = {f"stage{number}": rows(3, 4, seed=7 * view + number + 50 * online)}
        mean = {f"pooled{number}": maps.mean((2, 3))}
        return kept | (mean if online else {f"map{number}": maps})

    online = {v: features(0, v, 1) | features(1, v, 1) for v in range(4)}
    target = {i: features(0, i, 0) | features(1, i, 0) for i in (0, 1)}
    made = SimpleNamespace(online=online, target=target)
    method = SimpleNamespace(**NAMES, target=teacher(2), clock=Clock())
    wanted = 0.0
    for i in range(2):
        centre = term.centres.value[i].tolist()
        whole = parts = 0.0
        for n in range(3):
            for a, b in ((0, 1), (1, 0)):
                t = target[b][f"stage{i}"][n].tolist()
                t = [x - c for x, c in zip(t, centre, strict=True)]
                s = online[a][f"stage{i}"][n].tolist()
                whole += cross_entropy(t, s, 0.04) / 6
            maps = target[0][f"map{i}"][n]  # C x h x w
            for j in (2, 3):
                u, mean = online[j][f"pooled{i}"][n], torch.zeros(4).double()
                for y in range(2):
                    for x in range(2):
                        cell = maps[:, y, x]
                        share = torch.dot(u, cell) / u.norm() / cell.norm()
                        mean += share * cell / 4
                t = (mean / mean.norm()).tolist()
                s = online[j][f"stage{i}"][n].tolist()
                parts += cross_entropy(t, s, 0.04) / 6
        wanted += (whole + parts) / 2
    assert term(method, made).item() == pytest.approx(wanted, abs=1e-10)


# The parts


def test_weighted_maps_need_one_first_convolution():
    """Invariants 3, 4 and 7; rows of all images of the first crop come first."""
    torch.manual_seed(0)
    head = StageHead(6, 4, 8, 5).double().eval()
    maps = torch.randn(3, 6, 2, 2).double()
    weights = torch.rand(2, 3, 2, 2).double()
    found = head(maps, weights)
    for j in range(2):
        plain = head(weights[j][:, None] * maps)
        torch.testing.assert_close(found[3 * j : 3 * j + 3], plain)
    torch.testing.assert_close(head(maps, torch.ones(1, 3, 2, 2).double()), head(maps))


def test_likeness_ignores_lengths():
    """Invariants 2 and 3."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 5, 2, 2, generator=generator).double()
    seen = torch.randn(2, 3, 5, generator=generator).double()
    found = likeness(seen, maps)
    lengths = torch.rand(3, 1, 2, 2, generator=generator).double() + 0.5
    torch.testing.assert_close(likeness(3 * seen, lengths * maps), found)
    torch.testing.assert_close(likeness(seen, maps.flip(3)), found.flip(3))
    parallel = seen[0][:, :, None, None] * lengths
    torch.testing.assert_close(likeness(seen[:1], parallel), torch.ones_like(found[:1]))


# The step


def crops(batch=4, seed=0):
    large = views(batch, seed, 64, dtype=torch.double)
    return [*large, *views(batch, seed + 100, 32, dtype=torch.double)]


def multi_crop(**changes):
    return freeze_norms(double(build("SCFS", pairs=CROPS, **changes)))


def test_without_weight_it_is_dino():
    """Invariant 1, to 1e-12: losses, gradients, teacher and centre."""
    ours = multi_crop(weights=dict(stages=0))
    theirs = freeze_norms(double(build("DINO", pairs=CROPS)))
    with torch.no_grad():
        state = ours.state_dict()
        theirs.load_state_dict({n: state[n] for n in theirs.state_dict()})
    optimizers = sgd(ours), sgd(theirs)
    for seed in range(2):
        one, two = (
            step(m, crops(2, seed), o)
            for m, o in zip((ours, theirs), optimizers, strict=True)
        )
        assert one["loss_stages"] == 0 < one["raw_stages"]
        assert one["loss_instance"] == pytest.approx(two["loss_instance"], abs=1e-12)
        state = ours.state_dict()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                mine = ours.get_parameter(name).grad
                torch.testing.assert_close(mine, parameter.grad, rtol=0, atol=1e-12)
    heads = [p.grad for p in ours.terms.parameters()]
    assert heads and all(g is not None and not g.any() for g in heads)


def test_small_crops_are_searched_in_the_first_large_view():
    """Invariants 6 and 8; one call for large views and one for what was searched."""
    model, inputs = multi_crop().eval(), crops()
    calls = []
    hook = model.target.stage_heads[0].register_forward_hook
    hook(lambda module, given, output: calls.append(len(output)))
    term = model.terms.stages

    def parts(given):
        made = copy.deepcopy(model).step(given)
        return [term.of_crops(model, made, i, 0.04).item() for i in range(3)]

    before = parts(inputs)
    assert calls == [8, 8]  # 2 B, n B
    for v, changes in ((1, False), (0, True)):
        other = list(inputs)
        other[v] = other[v] + 0.5
        assert (parts(other) != pytest.approx(before, abs=1e-9)) == changes


def test_gradient_reaches_students_heads_alone():
    """Invariant 5: none to what was searched, and all that is trained has one."""
    model = multi_crop()
    losses = model(crops(), mode="loss")
    made = model.step(crops())
    for features in made.target.values():
        assert not any(x.requires_grad for x in features.values())
    for features in made.online.values():
        pooled = [x for name, x in features.items() if name.startswith("pooled")]
        assert len(pooled) == 3 and not any(x.requires_grad for x in pooled)
    total(losses).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert name.startswith("target.") and parameter.grad is None


def test_searches_on_byol_and_refuses_what_has_no_target_network():
    term = dict(type="FeatureSearch", **SEARCH)
    model = initialise(of_base("BYOL", term, pairs=CROPS))
    inputs = [x.float() for x in crops(2)]
    assert model(inputs, mode="loss")["loss_stages"] > 0
    with pytest.raises(ValueError, match="searches the maps of a target network"):
        initialise(of_base("SimSiam", term))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(search=dict(mid_channels=0)), "mid_channels=0 of FeatureSearch"),
        (dict(search=dict(target_temperature=0.2)), "target_temperature=0.2 must be"),
        (dict(centre_momentum=1.5), "centre_momentum=1.5 is the share"),
    ],
)
def test_what_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("SCFS", **changes)


def test_number_of_parameters():
    """Those of the sheet for a ResNet-50."""
    heads = [StageHead(c, 256, 2048, 256) for c in (512, 1024, 2048)]
    counts = [sum(p.numel() for p in head.parameters()) for head in heads]
    assert counts == [2_433_792, 3_745_536, 6_369_024]
