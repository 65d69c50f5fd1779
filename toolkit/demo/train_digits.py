"""Train a small network on handwritten digits with DistributedDataParallel, so that it survives restarts.

A stand-alone example; copy it. It runs under either launcher:

    rally run --nproc-per-node 4 train_digits.py --checkpoint-dir checkpoints
    torchrun --nproc-per-node 4 train_digits.py --checkpoint-dir checkpoints

When a worker dies, the agent stops the others and starts this script again from the top in all of them,
perhaps with other ranks and another number of workers. So the rule for this file is: what must outlive a
restart is in the checkpoint, and everything else is computed anew from the arguments, the rank and the world
size.

When the launcher itself is told to end (Ctrl-C, SIGTERM, the end of a Slurm allocation), it tells the workers and
gives them a grace, 30 s unless --shutdown-timeout says otherwise. This script then saves a checkpoint in the midst
of an epoch and ends; the next run goes on from that step.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# DistributedDataParallel imports this anyway; but when that happens after init_process_group, the functions in it
# take the group as a default argument and keep it for ever (torch 2.13). gloo's threads then outlive
# destroy_process_group, and now and then abort a worker that has done all its work and exits.
import torch.distributed.nn
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from toolkit import stop_requested, stop_seconds_left

TEST_IMAGES = 360  # of 1797; they are never trained on
CHECKPOINTS_KEPT = 2


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step of all workers together")
    parser.add_argument("--lr", type=float, default=5e-3, help="learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        default=Path("checkpoints"),
        help="all nodes must see the same folder; training goes on from the newest checkpoint in it",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU for each worker if this node has that many, else the CPU; must come out the same "
        "on all nodes (say cuda with --virtual-local-rank)",
    )
    parser.add_argument(
        "--step-delay-s", type=float, default=0.0, help="wait after each step, to watch in peace"
    )
    arguments = parser.parse_args()
    if arguments.epochs < 1 or arguments.batch_size < 1:
        parser.error("--epochs and --batch-size must be at least 1")
    if "RANK" not in os.environ:
        parser.error("RANK is not set; start this script with `rally run` or `torchrun`")
    return arguments


def pick_device(choice: str) -> torch.device:
    """This worker's device: the GPU with the number of its local rank, or the CPU."""
    workers_here = int(os.environ["LOCAL_WORLD_SIZE"])
    if choice == "cpu" or (choice == "auto" and torch.cuda.device_count() < workers_here):
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def load_images() -> tuple[TensorDataset, TensorDataset]:
    """The digits, `[images, 1, 8, 8]` in 0..1 with their labels, split into training and test.

    The split is the same in every worker and every attempt: its seed is fixed, or else a restart would train
    on what was held back before.
    """
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2024))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def new_network() -> nn.Module:
    """Two convolutions and a linear layer: ten thousand parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def save_checkpoint(
    folder: Path, epochs_done: int, steps_done: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint so that it is there whole or not at all. One rank calls this.

    `steps_done` counts the steps of the epoch that has begun; 0 at the end of an epoch.

    A worker can be killed at any instruction. A file under its final name must therefore never be half
    written: write beside it, force it to the disk, and rename, which is atomic.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "unfinished.tmp"
    with unfinished.open("wb") as file:
        state = {
            "epochs_done": epochs_done,
            "steps_done": steps_done,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    # ".step" sorts behind ".pt": what was saved in an epoch is newer than what was saved before it.
    step = f".step-{steps_done:06d}" if steps_done else ""
    unfinished.replace(folder / f"epoch-{epochs_done:04d}{step}.pt")
    for old in list_checkpoints(folder)[:-CHECKPOINTS_KEPT]:
        old.unlink()


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(folder.glob("epoch-*.pt"))


def resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, int]:
    """Load the newest checkpoint, if there is one; return how many epochs are done, and steps of the next.

    Every rank loads it by itself: DistributedDataParallel copies rank 0's parameters to all, but not the
    state of the optimizer. No rank can write a newer one meanwhile, since an epoch ends with a collective in
    which all take part. `weights_only` keeps a tampered file from running code.

    Raises:
        RuntimeError: the ranks found different checkpoints.
    """
    epochs_done, steps_done = 0, 0
    if checkpoints := list_checkpoints(folder):
        state: dict[str, Any] = torch.load(checkpoints[-1], map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        epochs_done, steps_done = state["epochs_done"], state["steps_done"]
    # Ranks that go on from different epochs would wait for each other for ever, or train nonsense.
    found = torch.tensor([epochs_done, steps_done], device=device)
    lowest_and_highest = torch.stack([found, -found])
    dist.all_reduce(lowest_and_highest, op=dist.ReduceOp.MIN)
    if not torch.equal(lowest_and_highest[0], -lowest_and_highest[1]):
        raise RuntimeError(
            f"rank {dist.get_rank()} found {epochs_done} finished epochs and {steps_done} steps in "
            f"{folder.resolve()}, another rank found others; give all nodes the same --checkpoint-dir on a shared "
            "file system"
        )
    return epochs_done, steps_done


def all_are_to_stop(device: torch.device) -> bool:
    """Whether this or any other rank was told to end: the same answer in every rank, after the same step.

    The signal reaches the ranks a little apart. If each of them stopped when it sees it, those that are a step
    ahead would wait for the others in their all-reduce until they are killed.
    """
    stop = torch.tensor(int(stop_requested()), device=device)
    dist.all_reduce(stop, op=dist.ReduceOp.MAX)
    return bool(stop)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: DataLoader[Any],
    device: torch.device,
    step_delay_s: float,
    steps_done: int,
) -> tuple[float, int]:
    """One pass over this rank's share, from a step on, or until this job is told to end.

    Returns:
        The mean loss over all ranks, and after how many steps of the epoch it stopped; 0 if it came to its end.
    """
    loss_sum = torch.zeros((), device=device)
    model.train()
    # The order is that of the epoch: what was trained on before is skipped, not trained on again.
    for step, (images, labels) in enumerate(islice(batches, steps_done, None), start=steps_done + 1):
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach()
        time.sleep(step_delay_s)
        if step < len(batches) and all_are_to_stop(device):
            return 0.0, step
    dist.all_reduce(loss_sum)
    return float(loss_sum) / ((len(batches) - steps_done) * int(dist.get_world_size())), 0


def accuracy(model: nn.Module, test: TensorDataset, device: torch.device) -> float:
    """Share of test images recognised, 0..1, the same number in every rank.

    Each rank takes every n-th image, so none is counted twice; a DistributedSampler would repeat some to make
    the shares even. Give it the bare network: the shares may differ in length, and the wrapped one may start
    collectives, in which all ranks must take part equally often.
    """
    images, labels = (part[dist.get_rank() :: dist.get_world_size()].to(device) for part in test.tensors)
    model.eval()
    with torch.no_grad():
        right = (model(images).argmax(dim=1) == labels).sum()
    dist.all_reduce(right)
    return int(right) / len(test)


def run(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train, from the newest checkpoint on, within a process group."""
    rank, world_size = dist.get_rank(), dist.get_world_size()

    def say(text: str) -> None:
        if rank == 0:
            print(text, flush=True)

    torch.manual_seed(arguments.seed)
    train, test = load_images()
    network = new_network().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=arguments.lr)
    epochs_done, steps_done = resume(arguments.checkpoint_dir, network, optimizer, device)
    # From here on SIGTERM is a request; until here it ended the script at once. Before the wrapper, in which the ranks
    # wait for each other: so once one of them trains, none can be ended by it any more.
    stop_requested()
    model = DistributedDataParallel(network)

    # The batch size is that of all workers together: so the learning rate stays right when the job comes back
    # smaller or larger. The sampler gives every rank equally many images (it repeats a few), hence equally
    # many steps; with one step more, a rank would wait in its all-reduce for ever.
    sampler: DistributedSampler[Any] = DistributedSampler(train, seed=arguments.seed)
    batches = DataLoader(train, batch_size=max(1, arguments.batch_size // world_size), sampler=sampler)

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    say(f"{world_size} workers on {device.type}, {len(train)} images to train on, restarts so far: {attempt}")
    if epochs_done or steps_done:
        step = f", step {steps_done} of the next" if steps_done else ""
        say(f"resumed from the checkpoint of epoch {epochs_done}{step}")

    for epoch in range(epochs_done, arguments.epochs):
        # The order of the images follows from seed and epoch. Without this call every epoch has the same one,
        # and a resumed run would begin with it again.
        sampler.set_epoch(epoch)
        began_s = time.perf_counter()
        # With another number of workers the last run's steps may be more than this one's epoch has.
        steps_done = min(steps_done, len(batches) - 1)
        loss, stopped_at = train_epoch(model, optimizer, batches, device, arguments.step_delay_s, steps_done)
        steps_done = 0
        if stopped_at:
            if rank == 0:
                save_checkpoint(arguments.checkpoint_dir, epoch, stopped_at, network, optimizer)
            left = f"{stop_seconds_left():.0f} s to spare"
            say(f"stopped on request after step {stopped_at} of epoch {epoch + 1}, {left}")
            return
        images_per_s = len(train) / (time.perf_counter() - began_s)
        correct = accuracy(network, test, device)
        if rank == 0:
            save_checkpoint(arguments.checkpoint_dir, epoch + 1, 0, network, optimizer)
        say(
            f"epoch {epoch + 1:2d}/{arguments.epochs}  loss {loss:.4f}  test accuracy {correct:6.1%}"
            f"  {images_per_s:6.0f} images/s"
        )

    say(f"final test accuracy {100 * accuracy(network, test, device):.1f} %")


def main() -> None:
    """Join the other workers, train, and leave."""
    arguments = parse_arguments()
    device = pick_device(arguments.device)
    # Rank, world size and address come from the environment, anew in each attempt: read them nowhere else.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    run(arguments, device)
    # Only here, where all is well: after an error the other ranks may be gone, and waiting for them would keep
    # this one from reporting it. And after `run` has let go of the model, which holds the group as well.
    dist.destroy_process_group()


# The agent also sends SIGTERM when another worker has died. This one is then in a collective that raises an error,
# and ends by that; if it hangs, the agent kills it when the grace is over. Nothing is lost but the epoch in hand: the
# last checkpoint is whole.
if __name__ == "__main__":
    # Writes the traceback of an error to where the agent reads it. Usually written as a decorator, @record.
    record(main)()
