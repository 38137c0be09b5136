"""The adaptive-cell model: sites and their multigraph, scores, and samples of a space group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from fake_gpu import Watch, on_fake_gpu, without_autocast
from test_space_group_samples import CASES, furthest_image

from crysgen.checkpoints import BEST, load_model
from crysgen.cli import main
from crysgen.graphs.stepwise import StepGraphs
from crysgen.models.adaptive_cell import AdaptiveCell
from crysgen.models.adaptive_cell_config import AdaptiveCellConfig
from crysgen.models.adaptive_cell_geometry import Geometry
from crysgen.models.adaptive_cell_noise import noise_sigmas
from crysgen.models.base import Prepares, Stepwise, refuse_targets
from crysgen.models.targets import Target
from crysgen.networks.neighbours import without_waiting
from crysgen.training.batch import Batch
from crysgen.training.settings import TrainingSettings
from crysgen.training.site_data import NUM_SITES, SPACE_GROUP, with_sites
from crysgen.training.trainer import Trainer
from crysgen.wyckoff.draws import draw_orbits
from crysmetrics.errors import UserError
from crysmetrics.examples import unpack
from crysmetrics.io import Crystals, CrystalsBuilder, read
from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.lattices import symmetric_lattice

SMALL = {
    "channels": 16,
    "edge_channels": 12,
    "triplet_channels": 4,
    "layers": 2,
    "radial": 8,
    "lengths": 4,
    "angular": 3,
    "k": 12,
    "triplet_k": 6,
}
CONFIG = AdaptiveCellConfig(network_settings=SMALL, max_sites=14)
KINDS = {"joint": CONFIG, "separate": replace(CONFIG, separate=True)}
GROUPS = [(number, atoms) for number, atoms in CASES if number not in (1, 227)]


@pytest.fixture(scope="module")
def crystals() -> Crystals:
    """Crystals on drawn orbits, which have the groups that were asked for."""
    builder = CrystalsBuilder()
    for number, atoms in GROUPS:
        group, rng = space_group(number), np.random.default_rng(number)
        lattice = symmetric_lattice(np.eye(3) + 0.1 * rng.normal(size=(3, 3)), group.rotations)
        for seed in range(100):
            drawn = draw_orbits(number, atoms, seed)
            frac = drawn.conventional.place(rng.random((len(drawn.elements), 3)))
            numbers = np.repeat(drawn.elements, drawn.conventional.counts)
            size = (16 * len(numbers) / abs(np.linalg.det(lattice))) ** (1 / 3)
            one = CrystalsBuilder()
            one.add("x", numbers, frac, size * lattice, source="x")
            placed = with_sites(one.build())
            if len(placed) and placed.properties[SPACE_GROUP][0] == number:
                break
        builder.add(str(number), numbers, frac, size * lattice, source=str(number))
    return with_sites(builder.build())


@pytest.fixture(scope="module")
def batch(crystals: Crystals) -> Batch:
    return Batch.from_crystals(crystals, torch.float64, (SPACE_GROUP, NUM_SITES))


def model_of(config: AdaptiveCellConfig, batch: Batch) -> AdaptiveCell:
    torch.manual_seed(0)
    model = AdaptiveCell(AdaptiveCell.fitted(config, batch)).double()
    for layer in (model.score, model.contraction):  # a new model hardly moves anything
        torch.nn.init.normal_(layer.weight, std=1.0)
    return model


def test_orbits_are_found_on_the_device(crystals: Crystals, batch: Batch) -> None:
    table = AdaptiveCell(CONFIG).table
    numbers = batch.properties[SPACE_GROUP].long()
    found = table.orbits(batch.frac_coords, batch.atomic_numbers, numbers)
    there = torch.arange(batch.atomic_numbers.shape[1])
    sites = ((found.first == there) & batch.mask).sum(1)
    assert sites.tolist() == crystals.properties[NUM_SITES].tolist()
    first = batch.frac_coords.gather(1, found.first[..., None].expand_as(batch.frac_coords))
    # What keeps a site moves all atoms of its orbit alike: an operation of the group keeps them so.
    moves = torch.randn(first.shape, generator=torch.Generator().manual_seed(0)).double()
    moves = moves.gather(1, found.first[..., None].expand_as(moves))
    onto = (
        found.projectors.gather(1, found.first[..., None, None].expand(-1, -1, 3, 3)).double()
        @ moves[..., None]
    )
    frac = batch.frac_coords + 1e-5 * (found.rotations.double() @ onto).squeeze(-1)
    again = table.orbits(frac, batch.atomic_numbers, numbers)
    assert torch.equal(again.first[batch.mask], found.first[batch.mask])
    counts = table.counts[numbers].tolist()
    orders = [len(space_group(n).rotations) // space_group(n).centring for n, _ in GROUPS]
    assert counts == orders


def test_the_graph_of_sites_gives_what_that_of_all_atoms_gives(batch: Batch) -> None:
    model = model_of(CONFIG, batch)
    torch.nn.init.zeros_(model.network.site.weight)  # it knows which atoms a site stands for
    few = model.prepare(batch, torch.Generator().manual_seed(0))
    assert few.graph.atomic_numbers.count_nonzero() < batch.mask.sum()
    moves, strain = model._scores(few.graph, few.geometry, few.levels)
    # The same noisy crystals, every atom a site of its own.
    numbers = batch.properties[SPACE_GROUP].long()
    orbits = model.table.orbits(batch.frac_coords, batch.atomic_numbers, numbers)
    noises = noise_sigmas(model.config, few_levels(model, batch)).double()
    bent = batch.lattices @ torch.linalg.matrix_exp(noises[:, 1, None, None] * few.strain)
    own = few.moves * (noises[:, 0] * few.graph.length)[:, None, None] @ torch.linalg.inv(bent)
    count = few.moves.shape[1]
    own = own.gather(1, orbits.first.clamp_max(count - 1)[..., None].expand_as(batch.frac_coords))
    frac = batch.frac_coords + (orbits.rotations.double() @ own[..., None]).squeeze(-1)
    there = torch.arange(batch.mask.shape[1]).expand(len(batch), -1)
    turns, weights = orbits.operations.double(), orbits.weights
    every = torch.eye(3).double().expand(*batch.mask.shape, 3, 3)
    geometry = Geometry.of(every, turns, weights, bent)
    graph = model._graph(batch.atomic_numbers, frac, bent, there, batch.mask, there, geometry)
    all_moves, all_strain = model._scores(graph, geometry, few.levels)
    present = few.graph.atomic_numbers > 0
    torch.testing.assert_close(all_strain, strain, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(all_moves[:, :count][present], moves[present], rtol=1e-5, atol=1e-6)


def few_levels(model: AdaptiveCell, batch: Batch) -> torch.Tensor:
    from crysgen.diffusion.noise import spread_steps

    generator = torch.Generator().manual_seed(0)
    return spread_steps(len(batch), model.config.levels, generator, torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_turn_with_the_crystal(kind: str, batch: Batch) -> None:
    model = model_of(KINDS[kind], batch)
    prepared = model.prepare(batch, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0]
    graph, geometry = prepared.graph, prepared.geometry
    vectors = graph.neighbours.vectors @ turn
    turned = graph._replace(neighbours=graph.neighbours._replace(vectors=vectors))
    frame = geometry._replace(
        sites=turn.T @ geometry.sites @ turn, turns=turn.T @ geometry.turns @ turn
    )
    moves, strain = model._scores(graph, geometry, prepared.levels)
    other_moves, other_strain = model._scores(turned, frame, prepared.levels)
    torch.testing.assert_close(other_moves, moves @ turn)
    torch.testing.assert_close(other_strain, turn.T @ strain @ turn)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_what_sites_and_groups_allow(kind: str, batch: Batch) -> None:
    model = model_of(KINDS[kind], batch)
    prepared = model.prepare(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(prepared.geometry.strain(prepared.strain), prepared.strain)
    again = (prepared.geometry.sites @ prepared.moves[..., None]).squeeze(-1)
    torch.testing.assert_close(again, prepared.moves)
    loss = model.prepared_loss(prepared)
    assert torch.equal(loss["loss"], model.loss(batch, torch.Generator().manual_seed(0))["loss"])
    loss["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_obeys_its_space_group(kind: str, batch: Batch) -> None:
    model = model_of(KINDS[kind], batch).float()
    assert isinstance(model, Stepwise)
    assert isinstance(model, Prepares)
    targets = [Target(7 * i, atoms, space_group=number) for i, (number, atoms) in enumerate(CASES)]
    made = model.sample(targets, 6)
    for row, (number, atoms) in enumerate(CASES):
        there = made.atomic_numbers[row] > 0
        numbers = made.atomic_numbers[row][there].numpy()
        group = space_group(number)
        assert sorted(numbers.tolist()) == sorted(atoms * group.centring)
        lattice, frac = made.lattices[row].numpy(), made.frac_coords[row][there].numpy()
        assert furthest_image(lattice, frac, numbers, group.hall_number) < 1e-6 * len(numbers)


def test_sites_are_what_was_asked_for(batch: Batch) -> None:
    model = model_of(CONFIG, batch).float()
    made = model.sample([Target(i, space_group=62, sites=(3, 3, 8)) for i in range(4)], 4)
    for numbers, frac, lattice in zip(
        made.atomic_numbers, made.frac_coords, made.lattices, strict=True
    ):
        there = numbers > 0
        builder = CrystalsBuilder()
        builder.add("x", numbers[there].numpy(), frac[there].numpy(), lattice.numpy(), source="x")
        found = with_sites(builder.build(), 1e-3)
        assert found.properties[NUM_SITES][0] <= 3
        assert set(found.atomic_numbers.tolist()) == {3, 8}
    with pytest.raises(UserError, match="must be told the space group"):
        refuse_targets(model, [Target(0, (3, 8))])
    with pytest.raises(UserError, match="must be told the atoms"):
        refuse_targets(model, [Target(0, space_group=2)])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_training_or_sampling_waits_for_the_device(kind, batch, monkeypatch) -> None:
    model = model_of(KINDS[kind], batch)
    prepared = model.prepare(batch, torch.Generator().manual_seed(0), "model")
    state, way = model.begin([Target(1, (22, 22, 8, 8, 8, 8), space_group=136)], 3)
    batches = on_fake_gpu(
        (batch.atomic_numbers, batch.frac_coords, batch.lattices, *batch.properties.values())
    )
    model.to("meta")
    without_autocast(monkeypatch)
    prepared, state, inputs = map(on_fake_gpu, (prepared, state, way[0]))
    assert batches
    with Watch():
        model.prepared_loss(prepared, "model")["loss"].backward()
    with without_waiting() as flags, Watch():
        after = model.step(state, inputs)
    assert after.frac_coords.shape == state.frac_coords.shape
    assert len(flags) == (2 if kind == "separate" else 1)


def test_steps_by_graphs_sample_what_the_model_samples(batch: Batch) -> None:
    model = model_of(CONFIG, batch)
    targets = [Target(i, atoms, space_group=number) for i, (number, atoms) in enumerate(CASES[4:9])]
    expected, found = model.sample(targets, 4), StepGraphs(model).sample(targets, 4)
    torch.testing.assert_close(found.lattices, expected.lattices)
    torch.testing.assert_close(found.frac_coords, expected.frac_coords)


def test_it_trains_resumes_and_samples_by_the_command(crystals: Crystals, tmp_path) -> None:
    pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")
    settings = TrainingSettings(steps=4, val_steps=2, val_draws=1, batch_atoms=64, warmup_steps=2)
    run = Trainer(AdaptiveCell, CONFIG, settings, tmp_path / "run", crystals, crystals)
    run.run()
    model = tmp_path / "run" / BEST
    assert model.is_file()
    given = ["sample", "--model", str(model), "--composition", "TiO2", "--space-group", "136"]
    given += ["--method", "diffusion", "--steps", "3", "-n", "3", "--formula-units", "2"]
    given += ["--no-energies", "--workers", "1", "--device", "cpu", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert (table.formula == "TiO2").all()
    from crysmetrics.space_group_settings import short_symbol

    for row in table.to_dict("records"):
        text = (tmp_path / "out" / row["file"]).read_text()
        assert f"# composition TiO2, {row['num_atoms']} atoms" in text
        assert f"space group {row['space_group_tight']} (" in text
        assert short_symbol(row["space_group_loose"]) in text
        assert "_symmetry_Int_Tables_number   136" in text

    # Without composition and group both are drawn.
    given = ["sample", "--model", str(model), "--steps", "3", "-n", "4", "--workers", "1"]
    done = CliRunner().invoke(main, [*given, "--device", "cpu", "-o", str(tmp_path / "free")])
    assert done.exit_code == 0, done.output
    free = pd.read_csv(tmp_path / "free" / "samples.csv")
    assert (free.space_group_loose > 1).any()


def test_shipped_weights_find_crystals_that_new_ones_do_not(tmp_path) -> None:
    _, reference = unpack(tmp_path)
    found = read(reference, workers=1)
    real = with_sites(found[found.num_atoms <= 6][:12])
    real = real[real.properties[NUM_SITES] >= 3]
    targets = [
        Target(
            i, tuple(one.atomic_numbers.tolist()), space_group=int(one.properties[SPACE_GROUP][0])
        )
        for i, one in enumerate(real)
    ]
    trained = load_model("adaptive-cell")
    torch.manual_seed(0)
    errors = []
    for model in (trained, AdaptiveCell(trained.config)):
        made = model.sample(targets, 40).to_crystals()
        volumes = made.volumes / made.num_atoms
        wanted = real.volumes / real.num_atoms
        errors.append(float(np.abs(np.log(volumes / wanted)).mean()))
    assert errors[0] < 0.25
    assert errors[1] > errors[0]
