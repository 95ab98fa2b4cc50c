"""The measurements of `gpu.py`."""

import gc
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from gpu_jobs import REFERENCE, Job, Sizes, halved
from gpu_subjects import Subject, precision, subject_of
from measuring import in_turn, ratios, seconds_of, wait
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.profiler import ProfilerActivity, profile

SECONDS = 1.0
"""For about so long, repetitions go on."""
TRIES = 20
"""How often the first step of a curve is made if its gradient overflows, each time with half the loss scale."""


class Bench:
    """Measures on one device.

    Args:
        folder: gets the compiler's files.
        device: the device.
        sizes: how much is measured.
    """

    def __init__(self, folder: Path, device: torch.device, sizes: Sizes) -> None:
        self.folder, self.device, self.sizes = folder, device, sizes
        self._reference: tuple[str, Subject] | None = None
        """A plan, and modality dropout with it: others take turns with it."""

    def measured(self, job: Job) -> dict[str, Any]:
        """Return the figures of a measurement; without ratios if there is no memory for two trainers.

        Raises:
            torch.OutOfMemoryError: there is none for one.
        """
        if job.part == "curves":
            self._reference = None
            self.release()
            return self._curves(job)
        measure = self._eager if job.part == "eager" else self._compiled
        try:
            return measure(job, self._reference_of(job.plan))
        except torch.OutOfMemoryError:
            if self._reference is None or job.method == REFERENCE:
                raise
        self._reference = None
        self.release()
        return measure(job, None)

    def _eager(self, job: Job, reference: Subject | None) -> dict[str, Any]:
        subject = reference if job.method == REFERENCE and reference else self._subject(job)
        for _ in range(self.sizes.warm_up):
            subject.step()
        peak = self._peak(subject)
        times = self._in_turn({job.method: subject.step, **({REFERENCE: reference.step} if reference else {})})
        convolutions, kernels = self._launches(subject.step)
        found = {
            **_figures("step", times, job.method),
            "peak_bytes": peak,
            "convolutions": convolutions,
            "kernels": kernels,
            "step_waits": self._waits(subject.step),
            "loss_scale": subject.loss_scale,
        }
        with ExitStack() as stack:
            candidates = {job.method: stack.enter_context(subject.predicting())}
            if reference and reference is not subject:
                candidates[REFERENCE] = stack.enter_context(reference.predicting())
            times = self._in_turn(candidates)
            waits = self._waits(candidates[job.method])
        return {**found, **_figures("patch", times, job.method), "patch_waits": waits}

    def _compiled(self, job: Job, reference: Subject | None) -> dict[str, Any]:
        from torch._inductor.utils import fresh_inductor_cache

        torch.compiler.reset()  # as if the training were the first of its process
        backend = torch.compiler.set_stance("default", force_backend=self.sizes.backend)
        with backend, fresh_inductor_cache(dir=str(self.folder)):
            if self.device.type == "cuda":  # what only the first compilation of a process needs
                compiled = torch.compile(torch.nn.Linear(8, 8).to(self.device))
                compiled(torch.ones(8, 8, device=self.device)).sum().backward()
            subject = self._subject(job, compiled=True)
            subject.step_without_compiler()  # so that cuDNN's search for algorithms is no part of the compilation
            first = [seconds_of(subject.step, self.device) for _ in range(2)]
            peak = self._peak(subject)
            candidates = {"compiled": subject.step, "eager": subject.step_without_compiler}
            times = self._in_turn({**candidates, **({REFERENCE: reference.step} if reference else {})})
            kernels, waits = self._launches(subject.step)[1], self._waits(subject.step)
        torch.compiler.reset()  # it keeps memory
        return {
            "compile_seconds": max(0.0, sum(first) - 2 * statistics.median(times["compiled"])),
            "compiled_peak_bytes": peak,
            "compiled_kernels": kernels,
            "compiled_waits": waits,
            "compiled_to_eager": ratios(times, "compiled", "eager"),
            **_figures("compiled", times, "compiled"),
        }

    def _curves(self, job: Job) -> dict[str, Any]:
        single, _, _, expected = self._curve(job, half=False)
        self.release()
        half, skipped, scale, found = self._curve(job, half=True)
        return {
            "scale": scale,
            "skipped": skipped,
            "float16": half,
            "float32": single,
            "cosine": _finite(_cosine(found, expected)),
        }

    def _curve(self, job: Job, *, half: bool) -> tuple[list[float | None], list[int], float | None, Sequence[Tensor]]:
        """Train from the same start, in float16 with a loss scale or in float32.

        Returns:
            The losses; the numbers of the skipped steps, from 1; the loss scale; the gradients of the first step that
            was not skipped.
        """
        subject = subject_of(job.method, halved(self.sizes.plans[job.plan]), self.device, width=self.sizes.width)
        made, losses, gradients = subject.made, [], []
        made.grad_scaler = (made.grad_scaler or GradScaler(self.device.type)) if half else None
        skipped, tries = [], 0
        for step in range(self.sizes.curve):
            loss, before = None, subject.loss_scale
            while loss is None or (step == 0 and tries < TRIES and subject.loss_scale != before):
                torch.manual_seed(step)
                made._step_in_epoch = step  # our trainers draw modalities by it
                before, tries = subject.loss_scale, tries + 1
                with precision(self.device, half=half):
                    loss = float(made.train_step(subject.batch)["loss"])
                if subject.loss_scale != before:
                    skipped.append(tries)
            losses.append(_finite(loss))
            if step == 0:
                parameters = made.network.parameters()
                gradients = [each.grad.flatten().cpu() for each in parameters if each.grad is not None]
        return losses, skipped, subject.loss_scale, gradients

    def _reference_of(self, plan: str) -> Subject | None:
        """Return modality dropout with a plan; None if there is no memory for it."""
        if self._reference is None or self._reference[0] != plan:
            self._reference = None
            self.release()
            try:
                subject = self._subject(Job(plan, REFERENCE, "eager"))
                subject.step()
            except torch.OutOfMemoryError:
                return None
            self._reference = (plan, subject)
        return self._reference[1]

    def _subject(self, job: Job, *, compiled: bool = False) -> Subject:
        plan = self.sizes.plans[job.plan]
        return subject_of(job.method, plan, self.device, width=self.sizes.width, compiled=compiled)

    def _in_turn(self, candidates: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
        once = sum(seconds_of(candidate, self.device) for candidate in candidates.values())
        fewest, most = self.sizes.repetitions
        return in_turn(candidates, min(most, max(fewest, round(SECONDS / once))), self.device)

    def _peak(self, subject: Subject) -> int | None:
        """Return the peak memory of a step in bytes, without what was on the device before the trainer was made."""
        if self.device.type != "cuda":
            return None
        wait(self.device)
        torch.cuda.reset_peak_memory_stats()
        subject.step()
        wait(self.device)
        return torch.cuda.max_memory_allocated() - subject.before

    def _launches(self, step: Callable[[], None]) -> tuple[int, int | None]:
        """Return the number of convolutions of the forward passes, and of kernels on the GPU; None without one."""
        on_gpu = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
        with profile(activities=[ProfilerActivity.CPU, *on_gpu]) as profiled:
            step()
            wait(self.device)
        convolutions = sum(each.count for each in profiled.key_averages() if each.key == "aten::convolution")
        kernels = [
            event
            for event in profiled.events() or []
            if event.device_type.name == "CUDA"
            and not event.is_user_annotation  # such as the optimizer's step
            and not event.name.startswith(("Memcpy", "Memset"))
        ]
        return convolutions, len(kernels) or None  # none where the driver does not let users profile

    def _waits(self, step: Callable[[], None]) -> int | None:
        """Return how often the host waits for the GPU in a step; None without one."""
        if self.device.type != "cuda":
            return None
        wait(self.device)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(each.message) for each in caught)

    def release(self) -> None:
        """Free the memory of what is not used any more."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def require_device(self) -> None:
        """Make sure that the device still computes; after some errors, no call in this process succeeds."""
        torch.ones(1, device=self.device).add_(1).cpu()


def _figures(name: str, times: dict[str, list[float]], method: str) -> dict[str, Any]:
    paired = ratios(times, method, REFERENCE) if REFERENCE in times else None
    return {f"{name}_seconds": times[method], f"{name}_to_reference": paired}


def _cosine(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    dot, of_found, of_expected = (
        sum(float(a.double() @ b.double()) for a, b in zip(left, right, strict=True))
        for left, right in ((found, expected), (found, found), (expected, expected))
    )
    return dot / math.sqrt(of_found * of_expected) if of_found * of_expected else math.nan


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
