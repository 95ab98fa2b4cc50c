"""Compare the cost of the methods with nnU-Net: time and memory of training steps and forward passes.

nnU-Net's own planners plan a phantom cohort with the size of a head at 1 mm. All times are medians over repetitions. In
each repetition the candidates take turns in another order. A ratio is the median of the ratios within the repetitions.
The output is Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from measuring import in_turn, initialized, levels_of, ratio, table
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.architectures.code_layer import CodeInput
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.architectures.shared_encoder_network import SharedEncoderNetwork
from nnunet_moe.images.phantom import SIGNAL, write_phantom_cohort
from nnunet_moe.losses.moesd import gate_regularisation
from nnunet_moe.modalities.codes import MAX_MODALITIES
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import machine
from nnunet_moe.runtime.precision import cpu_autocast
from nnunet_moe.runtime.workspace import Workspace
from nnunet_moe.settings.two_views import ItemKernels
from nnunet_moe.trainers.lckd import nnUNetTrainerLCKD
from nnunet_moe.trainers.moesd import nnUNetTrainerModalityDropout, nnUNetTrainerMoESD

DATASET_ID, DATASET = 903, "Dataset903_Head"
PLANS = {"PlainConvUNet": "nnUNetPlans", "ResEnc-M": "nnUNetResEncUNetMPlans"}
TRAINERS = {t.__name__: t for t in (nnUNetTrainer, nnUNetTrainerModalityDropout, nnUNetTrainerMoESD, nnUNetTrainerLCKD)}
STOCK, DROPOUT, MOESD, LCKD = TRAINERS
PARTS = ("steps", "memory", "forward", "kernels", "modalities")
WAYS: tuple[ItemKernels, ...] = ("loop", "grouped", "sum")
NUM_MODALITIES = 4  # for the part "modalities"


def main() -> None:
    options = _options()
    device = torch.device(options.device)
    if options.memory_of:
        trainer, network, precision = options.memory_of
        print(_peak_of_a_step(trainer, network, precision, Path(options.out), device))
        return
    workspace = _planned(Path(options.out), options.shape)
    print(f"{machine()}, device {device}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for network in options.networks:
        plans = json.loads((workspace.preprocessed / DATASET / f"{PLANS[network]}.json").read_text(encoding="utf-8"))
        configuration = PlansManager(plans).get_configuration("3d_fullres")
        patch, batch = configuration.patch_size, configuration.batch_size
        print(f"## {network}: patch {patch}, batch {batch}, {len(SIGNAL)} channels\n")
        if "steps" in options.parts:
            step = report_steps(plans, device, options.repetitions)
            report_regularisation(plans, step, device, options.repetitions)
        if "memory" in options.parts:
            report_memory(network, workspace.folder, device)
        if "forward" in options.parts:
            report_forward(plans, device, options.repetitions)
        if "kernels" in options.parts and network == "PlainConvUNet":
            report_kernels(plans, options.items, device, options.repetitions)
        if "modalities" in options.parts:
            report_modalities(plans, device, options.repetitions)


def report_steps(plans: dict, device: torch.device, repetitions: int) -> float:
    """Print the time of a training step of each trainer, and return that of MoE-SD in seconds."""
    steps = {name: _step(name, plans, device) for name in TRAINERS}
    times = in_turn(steps, repetitions, device)
    rows = {name: f"{statistics.median(seconds):.2f} s" for name, seconds in times.items()}
    print(table("training step", rows))
    print(f"MoESD / ModalityDropout: {ratio(times, MOESD, DROPOUT)}")
    print(f"LCKD / ModalityDropout: {ratio(times, LCKD, DROPOUT)}\n")
    return statistics.median(times[MOESD])


def report_regularisation(plans: dict, step: float, device: torch.device, repetitions: int) -> None:
    """Print the time of L_reg with its gradient, for the largest number of modalities."""
    network = _network(nnUNetTrainerMoESD, plans, MAX_MODALITIES).to(device)
    assert isinstance(network, ModalityNetwork)

    def l_reg() -> None:
        torch.stack([gate_regularisation(gates) for gates in network.gates_of_codes()]).sum().backward()

    seconds = statistics.median(in_turn({"L_reg": l_reg}, repetitions, device)["L_reg"])
    share = f"{100 * seconds / step:.3f} % of a step of MoESD"
    print(f"L_reg for K = {MAX_MODALITIES}, {len(network.mixtures)} layers: {1e3 * seconds:.1f} ms, {share}\n")


def report_memory(network: str, folder: Path, device: torch.device) -> None:
    """Print the peak memory of a training step, without the memory before the network was built.

    Each variant runs in its own process.
    """
    variants = {STOCK: (STOCK, "own"), f"{STOCK}, same precision": (STOCK, "same"), MOESD: (MOESD, "own")}
    if device.type != "cpu":
        del variants[f"{STOCK}, same precision"]  # there nnU-Net uses the same precision anyway
    peaks = {}
    for label, (trainer, precision) in variants.items():
        arguments = ("--memory-of", trainer, network, precision, "--out", str(folder), "--device", device.type)
        run = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
        peaks[label] = float(run.stdout.split()[-1])
    print(table("peak memory of a step", {label: f"{peak / 2**30:.2f} GiB" for label, peak in peaks.items()}))
    for label in list(peaks)[:-1]:
        print(f"MoESD / {label}: {peaks[MOESD] / peaks[label]:.2f}\n")


def report_forward(plans: dict, device: torch.device, repetitions: int) -> None:
    """Print the time of a forward pass of one patch in evaluation mode, as in sliding-window prediction."""
    patch = _patch(plans, batch_size=1).to(device)
    networks = {name: _network(TRAINERS[name], plans).to(device).eval() for name in (STOCK, MOESD)}

    def forward(name: str, precision: AbstractContextManager) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode(), precision:
                return networks[name](patch)

        return run

    same = torch.autocast("cuda") if device.type == "cuda" else cpu_autocast(device)
    ours, theirs, alike = "MoESD's network", "nnUNetTrainer's network", "nnUNetTrainer's network, same precision"
    candidates = {alike: forward(STOCK, same), ours: forward(MOESD, same if device.type == "cuda" else nullcontext())}
    if device.type == "cpu":
        candidates[theirs] = forward(STOCK, nullcontext())
    times = in_turn(candidates, repetitions, device)
    print(table("evaluation forward of a patch", {n: f"{statistics.median(s):.3f} s" for n, s in times.items()}))
    for name in [name for name in candidates if name != ours]:
        print(f"MoESD / {name}: {ratio(times, ours, name)}\n")


def report_kernels(plans: dict, items: int | None, device: torch.device, repetitions: int) -> None:
    """Print the time of forward and backward of each mixture with one kernel for each item, by the three ways.

    Args:
        items: number of items in a batch; None for the batch size of the plans.
    """
    precision = torch.autocast("cuda") if device.type == "cuda" else cpu_autocast(device)
    with precision:
        half = torch.is_autocast_enabled(device.type)
    label = f"autocast to {torch.get_autocast_dtype(device.type)}" if half else "torch.float32"
    for configuration in ("3d_fullres", "2d"):
        batch_size = items or PlansManager(plans).get_configuration(configuration).batch_size
        rows = []
        for layer, shape in _layers(plans, configuration):
            layer.to(device).train()
            x = torch.randn((batch_size, *shape), device=device, requires_grad=True)
            layer.code_input = CodeInput(torch.rand(batch_size, len(SIGNAL), device=device))
            times = in_turn({w: _convolved(layer, w, x, precision) for w in ("auto", *WAYS)}, repetitions, device)
            medians = {way: statistics.median(times[way]) for way in WAYS}
            name = f"{layer.weight.shape[2]}, {layer.weight.shape[1]}, {'x'.join(map(str, shape[1:]))}"
            others = [ratio(times, way, WAYS[0]) for way in WAYS[1:]]
            best = min(medians, key=lambda way: medians[way])
            rows.append((name, f"{1e3 * medians[WAYS[0]]:.1f} ms", *others, ratio(times, "auto", best)))
        title = f"{configuration}, {batch_size} items, {label}: C_in, C_out, input"
        columns = (title, WAYS[0], *(f"{way} / {WAYS[0]}" for way in WAYS[1:]), "auto / best")
        print(markdown_table(columns, rows), end="\n\n", flush=True)


def report_modalities(plans: dict, device: torch.device, repetitions: int) -> None:
    """Print the time of LCKD's network on one patch, by the number of available modalities.

    The network encodes only these. It is in evaluation mode.
    """
    same = torch.autocast("cuda") if device.type == "cuda" else cpu_autocast(device)
    lckd = _network(nnUNetTrainerLCKD, plans, NUM_MODALITIES).to(device).eval()
    stock = _network(nnUNetTrainer, plans, NUM_MODALITIES).to(device).eval()
    assert isinstance(lckd, SharedEncoderNetwork)
    complete = _patch(plans, 1, NUM_MODALITIES).to(device)

    def forward(network: Callable[[Tensor], object], image: Tensor) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode(), same:
                return network(image)

        return run

    candidates = {STOCK: forward(stock, complete), "encoder of one modality": forward(lckd.encoder, complete[:, :1])}
    for number in range(1, NUM_MODALITIES + 1):
        image = complete.clone()
        image[:, number:] = torch.nan
        candidates[f"LCKD, {number} of {NUM_MODALITIES}"] = forward(lckd, image)
    times = in_turn(candidates, repetitions, device)
    print(table("evaluation forward of a patch", {n: f"{statistics.median(s):.3f} s" for n, s in times.items()}))
    for name in list(candidates)[2:]:
        print(f"{name} / {STOCK}, same precision: {ratio(times, name, STOCK)}")
    print()


def _convolved(layer: MoEConv, way: ItemKernels, x: Tensor, precision: AbstractContextManager) -> Callable[[], None]:
    def run() -> None:
        layer.zero_grad()
        x.grad = None
        layer.item_kernels = way
        with precision:
            y = layer(x)
        y.backward(torch.ones_like(y))

    return run


def _layers(plans: dict, configuration: str) -> Iterator[tuple[MoEConv, torch.Size]]:
    """Yield the mixtures of the planned network with the shape of an item, `(C_in, *space)`.

    Mixtures of equal shapes are listed only once.
    """
    network = _network(nnUNetTrainerMoESD, plans, configuration=configuration).eval()
    assert isinstance(network, ModalityNetwork)
    shapes: dict[CodeConv, torch.Size] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: shapes.update({layer: inputs[0].shape[1:]}))
        for layer in network.mixtures
    ]
    with torch.inference_mode():
        network(_patch(plans, batch_size=1, configuration=configuration))
    for hook in hooks:
        hook.remove()
    seen = set()
    for layer, shape in shapes.items():
        kind = (tuple(layer.get_parameter("weight").shape), shape)
        if kind not in seen and isinstance(layer, MoEConv):
            seen.add(kind)
            yield layer, shape


def _peak_of_a_step(trainer: str, network: str, precision: str, folder: Path, device: torch.device) -> int:
    """Return the peak memory of a step in bytes. It must run in its own process."""
    plans = json.loads(
        (folder / "nnUNet_preprocessed" / DATASET / f"{PLANS[network]}.json").read_text(encoding="utf-8")
    )
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # reset the peak
    step = _step(trainer, plans, device)
    with cpu_autocast(device) if precision == "same" else nullcontext():
        for _ in range(2):  # momentum exists from the second step on
            step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    """Return the memory of this process in bytes, current or peak (only on Linux)."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith(name)
    ]
    return int(line.split()[1]) * 1024


def _step(trainer: str, plans: dict, device: torch.device) -> Callable[[], Any]:
    made = initialized(TRAINERS[trainer], plans, "3d_fullres", device)
    image = _patch(plans, made.configuration_manager.batch_size)
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 2, (len(image), 1, *image.shape[2:]), generator=generator).to(torch.int16)
    batch = {"data": image, "target": levels_of(made, label)}
    return lambda: made.train_step(batch)


def _network(
    trainer: type[nnUNetTrainer],
    plans: dict,
    num_channels: int = len(SIGNAL),
    configuration: str = "3d_fullres",
) -> nn.Module:
    manager = PlansManager(plans)
    planned = manager.get_configuration(configuration)
    for key in ("normalization_schemes", "use_mask_for_norm"):
        planned.configuration[key] = planned.configuration[key][:1] * num_channels
    return trainer.build_network_architecture(manager, planned, num_channels, 2, False)


def _patch(plans: dict, batch_size: int, num_channels: int = len(SIGNAL), configuration: str = "3d_fullres") -> Tensor:
    size = PlansManager(plans).get_configuration(configuration).patch_size
    return torch.randn(batch_size, num_channels, *size, generator=torch.Generator().manual_seed(0))


def _planned(folder: Path, shape: list[int]) -> Workspace:
    workspace = Workspace(folder, reuse=True)
    os.environ["nnUNet_results"], os.environ["nnUNet_preprocessed"] = (
        str(workspace.results),
        str(workspace.preprocessed),
    )
    if not (workspace.preprocessed / DATASET / "nnUNetResEncUNetMPlans.json").exists():
        write_phantom_cohort(workspace.raw / DATASET, num_training=5, num_test=0, shape=(shape[0], shape[1], shape[2]))
        plan = ("-d", str(DATASET_ID), "-c", "3d_fullres", "-np", "2", "-npfp", "2")
        workspace.run("nnUNetv2_plan_and_preprocess", *plan)
        workspace.run("nnUNetv2_plan_experiment", "-d", str(DATASET_ID), "-pl", "nnUNetPlannerResEncM")
    return workspace


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out",
        default="cost",
        help="write to this folder; the plans of an earlier run in it are reused (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="run on this device (default: cuda if available, else cpu)",
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        default=[150, 180, 150],
        help="draw heads of this shape in voxels of 1 mm (default: 150 180 150)",
    )
    parser.add_argument(
        "--networks", nargs="+", choices=PLANS, default=list(PLANS), help="measure these networks (default: all)"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="run these parts (default: all)")
    parser.add_argument(
        "--items", type=int, help="in the part 'kernels', use batches of this many items (default: as planned)"
    )
    parser.add_argument("--repetitions", type=int, default=3, help="repeat this many times (default: %(default)s)")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
