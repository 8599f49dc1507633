"""`train`: train a model, and go on from the newest whole state when the run's folder has one.

`run` is the verb: it guards the folder and starts the processes. `train` is what each process does, read top-down.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from trainer import (
    beginning,
    checkpoints,
    done,
    evaluation,
    lock,
    loop,
    losses,
    optim,
    preflight,
    randomness,
    signatures,
    usage,
)
from trainer import config as conf
from trainer.checkpoints import Manifest, WeightsFile
from trainer.compute import Compute, process_count
from trainer.config import Config
from trainer.data import flow, normalise, sampling
from trainer.data.loader import ClipSet, batches, cache_folder, open_split
from trainer.data.transforms import ModelInput
from trainer.distributed import World, launch
from trainer.errors import DataError, TryAgain
from trainer.loop import Meter, Position, Session
from trainer.meeting import Place
from trainer.model_rules import model_options
from trainer.models.weights import apply_freeze, create_for, load_init
from trainer.models.weights import notes as weights_notes
from trainer.prepare import ensure_cache
from trainer.records import Recorder
from trainer.rendezvous import joined
from trainer.run_folder import RunFolder
from trainer.stopping import Stop, grace


@dataclass(kw_only=True)
class Run:
    """One process's training, with all that a state file holds."""

    config: Config
    folder: RunFolder
    holder: lock.Holder  # of the run's lock
    session: Session
    clips: ClipSet
    validation: ClipSet
    recorder: Recorder
    stop: Stop
    position: Position
    meter: Meter
    manifest: Manifest
    flow: dict[str, Any]  # method, bound and gap of the flow that is trained on; {} of colours
    best: dict[str, Any]  # {"file": name, "value": of train.select}, or "" and None
    # monotonic seconds, and the step then: what the rest will take is told from them
    began: float = 0.0
    began_step: int = 0
    slow_told: bool = False


def train(
    world: World, config: Config, folder: RunFolder, *, cache: Path, holder: lock.Holder
) -> None:
    """What each process does. Raises TryAgain when stopped, Diverged, CannotWrite, ConfFault, DataError."""
    stop = Stop()
    with stop.listening():
        run = _set_up(world, config, folder, cache=cache, holder=holder, stop=stop)
        with stop.patient():
            while not _finished(run):
                _train_epoch(run)
                scores = _validate(run)
                _end_epoch(run, scores)
        run.recorder.close()


def _set_up(
    world: World, config: Config, folder: RunFolder, *, cache: Path, holder: lock.Holder, stop: Stop
) -> Run:
    recorder = Recorder(
        folder, enabled=world.rank == 0, require=partial(lock.require_held, folder.lock, holder)
    )
    clips, validation = open_split(config, "train", cache), open_split(config, "val", cache)
    preflight.require_flow_levels(config)
    preflight.require_metric(
        config, validated=len(validation) > 0, multi_label=validation.multi_label
    )
    share = sampling.share(config.train.batch, world.rank, world.size)
    compute = Compute.from_conf(
        config.compute, world.local_rank, processes=world.local_size, clips=share.stop - share.start
    )
    compute = preflight.fit_workers(compute, config, processes=world.local_size)
    for note in compute.notes:
        recorder.say(note)
    found = checkpoints.newest_state(folder, recorder.say)
    randomness.seed(config.train.seed)
    session = _open_session(
        world, config, compute, clips, state=found[1] if found else None, say=recorder.say
    )
    randomness.seed(config.train.seed + 1 + world.rank)
    run = Run(
        config=config,
        folder=folder,
        holder=holder,
        session=session,
        clips=clips,
        validation=validation,
        recorder=recorder,
        stop=stop,
        position=Position(),
        meter=Meter(),
        manifest=found[0] if found else Manifest(),
        flow=flow.made_as(Path(config.data.flow_root)) if config.data.stream == "flow" else {},
        best={"file": "", "value": None},
    )
    _resume(run, found[1] if found else None)
    return run


def _open_session(
    world: World,
    config: Config,
    compute: Compute,
    clips: ClipSet,
    *,
    state: dict[str, Any] | None,
    say: Callable[[str], None],
) -> Session:
    model = create_for(config, clips.classes)
    if state is not None:
        model.load_state_dict(state["model"])
    elif config.model.init:
        report = load_init(model, config.model.init, head=config.model.init_head, say=say)
        for line in (f"model.init: {report}", *weights_notes(config, report)):
            say(line)
    apply_freeze(model, config.model.freeze)
    compute.prepare(model)
    optimizer = optim.build(model, config.train, fused=compute.fused)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    network = world.parallel(model, compute.device)
    loss = losses.BY_MULTI_LABEL[clips.multi_label]
    return Session(
        conf=config.train, world=world, compute=compute, model=model, network=network, optimizer=optimizer, loss=loss,
        clips=len(clips), name_of=clips.name_of, inputs=ModelInput.of(config),
    )  # fmt: skip


def _resume(run: Run, state: dict[str, Any] | None) -> None:
    """Put everything back to the state, and cut back what the run wrote after it; without one, to the start."""
    size = preflight.checkpoint_size(run.session.model, run.config)
    world, main = run.session.world, run.session.world.rank == 0
    if state is None:
        if main:
            run.folder.require_space(2 * size)
            run.recorder.cut_back(0)
            run.manifest.save(run.folder)
        message = f"training from step 0: {len(run.clips)} clips, {len(run.validation)} for validation, {run.session.total_steps} steps"
    else:
        _require_same_clips(run, state)
        run.position, run.best = Position(**state["position"]), dict(state["best"])
        run.meter = Meter(**state["meter"])
        before = len(state["rng"])
        if world.rank < before:
            randomness.restore(state["rng"][world.rank])
        if before != world.size:
            scaled = (
                ", and lr is scaled for those now"
                if run.config.train.lr_scaling == "linear"
                else ""
            )
            run.recorder.say(
                f"note: {before} processes before, {world.size} now: no longer bit for bit as it would have gone on{scaled}"
            )
        validated = run.position.consumed == 0 or run.position.closed
        if main:
            run.folder.require_space(size)
            run.recorder.cut_back(run.position.step, validated=validated)
            run.manifest.save(run.folder)
        message = f"resumed at step {run.position.step} of {run.session.total_steps}, epoch {run.position.epoch}"
    run.recorder.say(message)
    settings = [
        f"{key} {value}"
        for key, value in run.session.compute.describe().items()
        if value not in ("", None)
    ]
    run.recorder.say("compute: " + ", ".join(settings))
    run.began, run.began_step = time.monotonic(), run.position.step


def _require_same_clips(run: Run, state: dict[str, Any]) -> None:
    """The place in the epoch means nothing in another set of clips."""
    before, now = state["clips"], run.clips.fingerprint
    if before != now:
        message = f"the training clips are not those of the run so far: it had {before['count']}, now there are {now['count']}"
        raise DataError(
            message, hint="restore the dataset, or submit a new run `--from` this one's weights"
        )


def _finished(run: Run) -> bool:
    """Whether all that the conf asks for is done, validation and checkpoint included."""
    position, recipe = run.position, run.config.train
    whole = position.closed or position.consumed == 0
    return whole and (
        position.epoch > recipe.epochs
        or bool(recipe.max_steps and position.step >= recipe.max_steps)
    )


def _train_epoch(run: Run) -> None:
    """Train on the rest of the epoch, or as far as max_steps."""
    recipe, session = run.config.train, run.session
    run.position = replace(run.position, closed=False)
    run.meter.restart_clock()
    if run.position.consumed == session.epoch_clips or run.position.step >= session.total_steps:
        return  # stopped in its validation
    for step in loop.steps(
        session, _batches(run, run.clips, shuffle=True), run.position, run.meter, stop=run.stop
    ):
        run.position = step.position
        ended = (
            step.position.consumed == session.epoch_clips
            or step.position.step >= session.total_steps
        )
        if ended or step.position.step % recipe.log_every == 0:
            _log_step(run, step.lr)
        if step.stop:
            _save_and_stop(run)
        if (
            not ended
            and recipe.checkpoint_steps
            and step.position.step % recipe.checkpoint_steps == 0
        ):
            _save_state(run)


def _batches(run: Run, clips: ClipSet, *, shuffle: bool) -> Any:
    """This process's share of an epoch's micro-batches; of the training clips those that are not consumed yet."""
    world, compute = run.session.world, run.session.compute
    return batches(
        clips,
        epoch=run.position.epoch,
        batch=run.config.train.batch,
        seed=run.config.train.seed,
        shuffle=shuffle,
        rank=world.rank,
        world=world.size,
        start=run.position.consumed if shuffle else 0,
        size=run.config.train.epoch_size if shuffle else 0,
        workers=compute.workers,
        pin=compute.device.type == "cuda",
    )


def _log_step(run: Run, lr: float) -> None:
    mean, speeds = run.meter.take()
    steps = run.position.step - run.began_step
    eta = (time.monotonic() - run.began) / steps * (run.session.total_steps - run.position.step)
    run.recorder.record(
        "train", mean, epoch=run.position.epoch, step=run.position.step, lr=lr, **speeds, eta=eta
    )


def _validate(run: Run) -> dict[str, float]:
    """Metrics of the validation split, {} in epochs without validation. Stopped meanwhile, it is done again after resuming."""
    last = (
        run.position.epoch >= run.config.train.epochs
        or run.position.step >= run.session.total_steps
    )
    if not len(run.validation) or not (
        last or run.position.epoch % run.config.train.validate_every == 0
    ):
        return {}
    session = run.session
    session.world.share_buffers(session.model)
    source = _batches(run, run.validation, shuffle=False)
    try:
        with randomness.untouched():
            found = evaluation.predict(
                session.model,
                source,
                session.compute,
                inputs=session.inputs,
                loss=session.loss,
                videos=run.validation.video_of,
                rank=session.world.rank,
                world=session.world.size,
                stop=lambda: run.stop.requested,
            )
            scores = found.scores(
                run.config.test.threshold,
                multi_label=run.clips.multi_label,
                combine=run.config.eval.combine,
            )
    except TryAgain:
        _save_and_stop(run)
    if not math.isfinite(found.loss):
        run.recorder.say(
            "warning: the validation loss is not finite; the weights grow, or BatchNorm has seen too few clips yet"
        )
    run.recorder.record(
        "val", found.loss, epoch=run.position.epoch, step=run.position.step, **scores
    )
    return {"loss": found.loss, **scores}


def _end_epoch(run: Run, metrics: dict[str, float]) -> None:
    """The epoch's weights and state, and what is best so far."""
    epoch, partial = run.position.epoch, run.position.consumed < run.session.epoch_clips
    name = run.folder.weights(epoch).name
    select = evaluation.selected(run.config.train.select, multi_label=run.clips.multi_label)
    value = metrics.get(select)
    if value is not None and _better(value, run.best["value"], select):
        run.best = {"file": name, "value": value}
    if partial:  # max_steps
        run.position = replace(run.position, closed=True)
    else:
        run.position = replace(run.position, epoch=epoch + 1, consumed=0)
    _save(
        run, weights=_weights(run, epoch, metrics), metrics=metrics, at_epoch=epoch, inside=partial
    )
    if run.session.world.any(run.stop.requested) and not _finished(run):
        raise TryAgain(_stopped(run))


def _better(value: float, best: float | None, select: str) -> bool:
    if not math.isfinite(value):  # nothing would be better than it
        return False
    if best is None:
        return True
    return value < best if select == "loss" else value > best


def _save_state(run: Run) -> None:
    """A state inside the epoch."""
    _save(run, weights=None, metrics={}, at_epoch=run.position.epoch, inside=True)


def _save_and_stop(run: Run) -> NoReturn:
    _save_state(run)
    raise TryAgain(_stopped(run))


def _stopped(run: Run) -> str:
    where = f"after step {run.position.step} in epoch {run.position.epoch}"
    return f"stopped by SIGTERM {where}; its state is saved and a retry goes on from it"


def _save(
    run: Run, *, weights: WeightsFile | None, metrics: dict[str, float], at_epoch: int, inside: bool
) -> None:
    """Write files, then the manifest; collective, since the state holds the random generators of all processes."""
    world, began = run.session.world, time.monotonic()
    state = _state(run, at_epoch, world.gather(randomness.snapshot()))
    if world.rank == 0:
        held = partial(lock.require_held, run.folder.lock, run.holder)
        held()
        run.folder.require_space(preflight.checkpoint_size(run.session.model, run.config))
        files = {}
        if weights is not None:
            path = run.folder.weights(at_epoch)
            files[path.name] = checkpoints.save(
                path, weights, kind="weights", metrics=metrics, require=held
            )
        path = run.folder.state(at_epoch, run.position.step if inside else None)
        files[path.name] = checkpoints.save(path, state, kind="state", require=held)
        recipe = run.config.train
        select = evaluation.selected(recipe.select, multi_label=run.clips.multi_label)
        run.manifest = run.manifest.adding(
            files, best=run.best["file"], select=select, keep=recipe.keep_weights
        )
        held()
        run.manifest.save(run.folder)
        _tell_slow(run, time.monotonic() - began)
    world.wait()
    run.meter.restart_clock()


def _tell_slow(run: Run, seconds: float) -> None:
    if seconds > grace() / 2 and not run.slow_told:
        run.slow_told = True
        run.recorder.say(
            f"warning: a checkpoint took {seconds:.0f} s, more than half of the {grace():.0f} s of grace; raise job.grace"
        )


def _state(run: Run, epoch: int, rng: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": checkpoints.FORMAT,
        "epoch": epoch,
        "step": run.position.step,
        "position": asdict(run.position),
        "model": run.session.model.state_dict(),
        "optimizer": run.session.optimizer.state_dict(),
        "rng": rng,
        "clips": run.clips.fingerprint,
        "best": run.best,
        "meter": {"loss": run.meter.loss, "clips": run.meter.clips},
    }


def _weights(run: Run, epoch: int, metrics: dict[str, float]) -> WeightsFile:
    config = run.config
    options = {
        key: option.default
        for key, option in signatures.read()[config.model.name].options.items()
        if not option.required
    }
    options |= model_options(config, len(run.clips.classes))
    return {
        "format": checkpoints.FORMAT,
        "model": {"name": config.model.name, **options},
        "classes": list(run.clips.classes),
        "multi_label": run.clips.multi_label,
        "data": {key: getattr(config.data, key) for key in conf.INFERENCE},
        "frames": config.data.frames,
        "size": config.data.size,
        "flow": run.flow,
        "normalisation": normalise.of_conf(config.data).to_json(),
        "fps": float(run.clips.fps),
        "epoch": epoch,
        "step": run.position.step,
        "metrics": dict(metrics),
        "state_dict": {
            key: value.detach().cpu().contiguous()
            for key, value in run.session.model.state_dict().items()
        },
    }


def run(config: Config, folder: RunFolder) -> None:
    """The verb. A finished run says so and does nothing; one with checkpoints is resumed; else it starts."""

    def say(message: str) -> None:
        print(message, flush=True)

    place, cache = Place.of(os.environ), cache_folder(config, folder.whole)
    with Stop().listening():
        # before it waits for nodes that have ended well
        if not place.alone and beginning.finished_before(config, folder, say):
            return
        with joined(place, say) as nodes, lock.hold_for(place, folder, say=say) as holder:
            if nodes.first(
                lambda: beginning.begin(config, folder, cache, say),
                then=lambda: ensure_cache(config, cache, nodes.say),
            ):
                return
            held = partial(lock.require_held, folder.lock, holder)
            with usage.watched(folder, enabled=place.leads, require=held) as sampler:
                launch(
                    nodes,
                    process_count(config.compute),
                    train,
                    config,
                    folder,
                    cache=cache,
                    holder=holder,
                )
                if sampler is not None:
                    done.write(config, folder, usage=sampler.summary())
