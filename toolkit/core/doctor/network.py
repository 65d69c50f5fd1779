"""Judges of names, interfaces and ports, and of the way to the rendezvous endpoint."""

from __future__ import annotations

from ipaddress import ip_address

from toolkit.core.doctor.amounts import number, seconds
from toolkit.core.doctor.facts import (
    EndpointFacts,
    FqdnFacts,
    LocalhostFacts,
    Machine,
    NameFacts,
    NetworkFacts,
    PeerNameFacts,
)
from toolkit.core.doctor.findings import Asked, Said, note, ok, problem, warning
from toolkit.core.words import host_and_port, some

#: a name service that takes longer is slow, in seconds
_SLOW_S = 1.0
#: ports that a run of some nodes needs and does not miss
_PORTS_FEW = 1000
_OF_SOCKETS = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
_IN_HOSTS = "/etc/hosts"


def is_loopback(address: str) -> bool:
    """Whether an address reaches this machine alone."""
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def hostname(facts: NameFacts, asked: Asked, machine: Machine) -> Said:
    """What the name of this machine resolves to."""
    found, ours = facts.hostname, _peers_can_use(machine.network)
    address = ours[0] if ours else "ADDRESS"
    add = f"echo '{address} {found.name}' | sudo tee -a {_IN_HOSTS}"
    if found.problem or not found.addresses:
        return warning(
            f"the host name {found.name} has no address: {found.problem or 'the name service knows none'}",
            "torch and gloo look it up to find the address that others are to use; several nodes need it",
            f"have it in the name service, or in {_IN_HOSTS}",
            add,
        )
    if all(is_loopback(each) for each in found.addresses):
        what = f"the host name {found.name} resolves to {some(found.addresses)}, which is this machine's loopback"
        why = "gloo and static rendezvous tell others that address, and these then connect to themselves"
        if not ours:
            return note(what, f"{why}; of no effect on one node")
        fix = f"correct its line in {_IN_HOSTS}, or name an address in each run"
        return warning(what, f"{why}; one node runs well", fix, f"rally run --local-addr {address} ...")
    if found.took_s > _SLOW_S:
        return warning(
            f"looking up {found.name} took {seconds(found.took_s)}",
            "each process of torch does it once or more, and a restart waits for it",
            f"have the name in {_IN_HOSTS}",
            add,
        )
    return ok(f"{found.name} is {some(found.addresses, 1)}")


def fqdn(facts: FqdnFacts, asked: Asked, machine: Machine) -> Said:
    """How long the full name takes."""
    if facts.took_s > _SLOW_S:
        return warning(
            f"looking up the full name of this machine took {seconds(facts.took_s)}",
            "workers and libraries look it up at their start; rally does once for each run",
            f"have address and name in {_IN_HOSTS}, or correct /etc/resolv.conf",
            "getent hosts $(hostname)",
        )
    return ok(f"full name found in {seconds(facts.took_s)}")


def peer_name(facts: PeerNameFacts, asked: Asked, machine: Machine) -> Said:
    """How long the name of an address takes."""
    if facts.took_s > _SLOW_S:
        return warning(
            f"looking up the name of {facts.address} took {seconds(facts.took_s)}",
            "torch's store asks for the name of each peer that connects, in the one thread that serves all of them",
            f"have the nodes' addresses in the name service, or correct /etc/resolv.conf; {_IN_HOSTS} does not help",
            "export RES_OPTIONS='timeout:1 attempts:1'",
        )
    return ok(f"the name of {facts.address} found in {seconds(facts.took_s)}")


def localhost(facts: LocalhostFacts, asked: Asked, machine: Machine) -> Said:
    """Whether `localhost` is this machine."""
    found = facts.localhost
    if found.addresses and all(is_loopback(each) for each in found.addresses):
        return ok("localhost")
    what = (
        f"is {some(found.addresses)}"
        if found.addresses
        else f"has no address: {found.problem or 'nobody knows it'}"
    )
    return problem(
        f"the name localhost {what}",
        "workers of one node meet there",
        f"have it in {_IN_HOSTS}",
        f"echo '127.0.0.1 localhost' | sudo tee -a {_IN_HOSTS}",
    )


def _peers_can_use(facts: NetworkFacts | None) -> list[str]:
    """Our addresses that another machine may reach, the likeliest first."""
    if facts is None:
        return []
    found = [each for face in facts.interfaces if face.up for each in face.addresses if not is_loopback(each)]
    first = [facts.towards_world] if facts.towards_world and not is_loopback(facts.towards_world) else []
    return list(dict.fromkeys(first + found))


def addresses(facts: NetworkFacts, asked: Asked, machine: Machine) -> Said:
    """Addresses that peers could use."""
    faces = {
        face.name: [each for each in face.addresses if not is_loopback(each)]
        for face in facts.interfaces
        if face.up
    }
    useful = [(name, found[0]) for name, found in faces.items() if found]
    if not useful:
        return note(
            "this machine has no address but loopback",
            "it can run jobs of one node; others can't reach it",
        )
    useful.sort(key=lambda one: one[1] != facts.towards_world)
    return ok(some([f"{name} {address}" for name, address in useful], 2))


def socket_ifname(facts: NetworkFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether the interfaces that variables name are there."""
    names = [face.name for face in facts.interfaces if face.up]
    lines = []
    for variable in _OF_SOCKETS:
        text = asked.environ.get(variable, "")
        if text and not matched(text, names, prefix=variable.startswith("NCCL")):
            lines.append((variable, text))
    if lines:
        variable, text = lines[0]
        return problem(
            " and ".join(f"{variable}={text}" for variable, text in lines)
            + f", and no interface that is up is called so; there is {some(names, 6)}",
            "the process group then can't be made on this node",
            "name one that is there, or leave it out",
            f"unset {' '.join(variable for variable, _ in lines)}",
        )
    said = [variable for variable in _OF_SOCKETS if asked.environ.get(variable)]
    return ok(", ".join(f"{variable}={asked.environ[variable]}" for variable in said)) if said else None


def matched(text: str, names: list[str], *, prefix: bool) -> list[str]:
    """The interfaces that a variable chooses.

    Args:
        text: its value. NCCL's are the beginnings of names, `=` before them the whole, `^` those not to be taken.
        names: of the interfaces that are up.
        prefix: whether it is NCCL's.
    """
    if not prefix:
        return [name for name in names if name in text.split(",")]
    inverse, text = text.startswith("^"), text.removeprefix("^")
    exact, text = text.startswith("="), text.removeprefix("=")
    # A name may have a port behind it, which only chooses an RDMA device.
    wanted = [word.partition(":")[0] for word in text.split(",") if word]
    return [
        name
        for name in names
        if any(name == word if exact else name.startswith(word) for word in wanted) != inverse
    ]


def ephemeral(facts: NetworkFacts, asked: Asked, machine: Machine) -> Said:
    """Ports that the kernel gives away."""
    first, last = facts.ephemeral_first, facts.ephemeral_last
    if first is None or last is None:
        return note("which ports are given away is not known", "workers and rendezvous take free ones")
    left = last - first + 1 - facts.ports_used
    command = "sudo sysctl net.ipv4.ip_local_port_range='32768 60999'"
    if left < 4 * asked.nproc + 16:
        why = "workers, their store and their connections need some each"
        return problem(
            f"{number(max(left, 0))} of ports {first}-{last} are free", why, "widen the range", command
        )
    inside = [port for port in (facts.rendezvous_port, facts.master_port) if first <= port <= last]
    if inside:
        ports = " and ".join(map(str, inside))
        return note(
            f"{ports} lie{'s' if len(inside) == 1 else ''} among the ports that the kernel gives away",
            "another program may have such a port by chance when a run is to begin",
            "keep them out",
            f"sudo sysctl net.ipv4.ip_local_reserved_ports={','.join(map(str, inside))}",
        )
    if left < _PORTS_FEW:
        why = "connections of workers take one each"
        return warning(f"{number(left)} of ports {first}-{last} are free", why, "widen the range", command)
    return ok(f"{number(left)} free ports")


def rendezvous_port(facts: NetworkFacts, asked: Asked, machine: Machine) -> Said:
    """The port on which several nodes meet unless told otherwise."""
    return _default_port(
        facts.rendezvous_port, facts.rendezvous_port_problem, "--rdzv-endpoint", "rendezvous"
    )


def master_port(facts: NetworkFacts, asked: Asked, machine: Machine) -> Said:
    """The port of torch's static rendezvous."""
    return _default_port(facts.master_port, facts.master_port_problem, "--master-port", "MASTER_PORT")


def _default_port(port: int, trouble: str, option: str, what: str) -> Said:
    if not trouble:
        return ok(f"port {port} free")
    example = f"--rdzv-endpoint HOST:{port + 7}" if option == "--rdzv-endpoint" else f"{option} {port + 7}"
    return warning(
        f"port {port}, the default {what} of several nodes, is {trouble}",
        "a run that wants it on this machine is refused; runs on one node take a free one",
        "give another, the same on every node",
        f"rally run {example} ...",
    )


def infiniband(facts: NetworkFacts, asked: Asked, machine: Machine) -> Said | None:
    """RDMA devices."""
    if not facts.infiniband:
        return None
    down = [device for device in facts.infiniband if not device.endswith("ACTIVE")]
    if len(down) == len(facts.infiniband):
        return warning(
            f"no RDMA device is active: {some(down)}",
            "NCCL goes over plain sockets, at a fraction of the speed",
            "see the state of the links",
            "ibstat",
        )
    active = [device.split()[0] for device in facts.infiniband if device not in down]
    if down:
        return note(f"RDMA: {some(active)} active, not {some(down)}", "NCCL uses those that are")
    return ok(f"RDMA {some(active)}")


# -- the endpoint ---------------------------------------------------------------------------------------------


def endpoint_name(facts: EndpointFacts, asked: Asked, machine: Machine) -> Said:
    """Whether its name resolves."""
    found = facts.lookup
    if found.problem or not found.addresses:
        return problem(
            f"{facts.host} has no address: {found.problem or 'the name service knows none'}",
            "no agent finds the others",
            "correct its spelling, or give the IP address",
            f"getent hosts {facts.host}",
        )
    if found.took_s > _SLOW_S:
        return warning(
            f"looking up {facts.host} took {seconds(found.took_s)}",
            "every agent and every worker does",
            "give the IP address",
            f"rally run --rdzv-endpoint {host_and_port(found.addresses[0], facts.port)} ...",
        )
    if all(is_loopback(each) for each in found.addresses) and facts.host not in found.addresses:
        # Right on the machine that has the endpoint where peers know its name; or else nobody meets there.
        return note(
            f"{facts.host} is {some(found.addresses)} here, which is this machine alone",
            "right only if the other nodes find this machine under that name",
        )
    return ok(f"{facts.host} is {some(found.addresses, 2)}")


def endpoint_reach(facts: EndpointFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether it can be reached."""
    where = host_and_port(facts.host, facts.port)
    if facts.lookup.problem:
        return None
    if facts.listening:
        return ok(f"{where} answers in {seconds(facts.took_s)}")
    if facts.own:
        return ok(f"{where} is this machine, where the agent will listen")
    if facts.refused:
        return warning(
            f"{where} is reached, and nobody listens there",
            "right if the node that hosts it has not started yet; agents wait for it",
            "start the agent there, or correct the port",
        )
    return problem(
        f"{where} can't be reached: {facts.problem}",
        "this node can't meet the others",
        "check the address, the port and the firewall",
        f"nc -vz {facts.host} {facts.port}",
    )


def endpoint_address(facts: EndpointFacts, asked: Asked, machine: Machine) -> Said | None:
    """Our address, as others see it."""
    if not facts.local_addr:
        return None
    if is_loopback(facts.local_addr) and not facts.own:
        return warning(
            f"our address towards it is {facts.local_addr}",
            "other nodes can't reach that",
            "name an address of this machine",
            "rally run --local-addr ADDRESS ...",
        )
    return ok(f"our address towards it is {facts.local_addr}")
