# SPDX-License-Identifier: MIT OR Apache-2.0

SUMMARY = "Proves in each build that a task has no network unless it asks for it"
LICENSE = "MIT OR Apache-2.0"

inherit nobuild

addtask look_with_network after do_patch
do_look_with_network[network] = "1"
do_look_with_network[dirs] = "${B}"
do_look_with_network[doc] = "Note what a task with [network] = 1 sees"
python do_look_with_network() {
    seen = look()
    for line in describe_view(seen):
        bb.note(line)
    with open(d.expand("${B}/with-network"), "w") as file:
        file.write(seen["namespace"])
}

addtask probe after do_look_with_network before do_build
do_probe[dirs] = "${B}"
do_probe[doc] = "Fail if a task without [network] can reach a network"
python do_probe() {
    seen = look()
    for line in describe_view(seen):
        bb.note(line)
    with open(d.expand("${B}/with-network")) as file:
        other = file.read()
    bb.note("A task with [network] = 1 was in %s, this one is in %s" % (other, seen["namespace"]))

    faults = []
    if seen["namespace"] == other:
        faults.append("it shares the network namespace of tasks that have the network")
    if set(seen["up"]) - {"lo"}:
        faults.append("interfaces are up: %s" % " ".join(seen["up"]))
    if seen["routes"]:
        faults.append("there are %d routes" % seen["routes"])
    # The last two are what IPv6 says where no address is set up, or where the kernel lacks it.
    cut_off = ("ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT")
    faults += ["%s: %s" % (target, result) for target, result in seen["attempts"].items() if result not in cut_off]
    if faults:
        bb.fatal("A task without [network] can reach a network: %s" % "; ".join(faults))
    bb.plain("network-probe: tasks are cut off from the network")
}

def look():
    """What this process sees of a network."""
    import os
    with open("/proc/net/dev") as file:
        interfaces = sorted(line.split(":")[0].strip() for line in file if ":" in line)
    with open("/proc/net/route") as file:
        routes = len(file.readlines()[1:])
    return {
        "namespace": os.readlink("/proc/self/ns/net"),
        "interfaces": interfaces,
        "up": [name for name in interfaces if is_up(name)],
        "routes": routes,
        # Addresses set aside for documentation (RFC 5737, RFC 3849). Where there is a default route, the kernel takes a
        # datagram for them, and a connection hangs; without a network it says ENETUNREACH at once.
        "attempts": {"%s to %s" % target: attempt(*target) for target in
                     (("udp", "192.0.2.1"), ("tcp", "192.0.2.1"), ("udp", "2001:db8::1"))},
    }

def is_up(interface):
    """ioctl(SIOCGIFFLAGS), see netdevice(7)."""
    import fcntl, socket, struct
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, 0x8913, struct.pack("16sH14x", interface.encode(), 0))
    return bool(struct.unpack("16sH14x", answer)[1] & 1)

def attempt(kind, address):
    """connect(2): the name of the error, or that there was none."""
    import errno, socket
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            probe.connect((address, 80))
    except socket.timeout:
        return "no answer in 2 seconds"
    except OSError as problem:
        return errno.errorcode.get(problem.errno, str(problem))
    return "success"

def describe_view(seen):
    yield "Network namespace: %s" % seen["namespace"]
    yield "Interfaces: %s (up: %s); routes: %d" % (
        " ".join(seen["interfaces"]), " ".join(seen["up"]) or "none", seen["routes"])
    for target, result in seen["attempts"].items():
        yield "%s: %s" % (target, result)
