"""What the stateless profiles share: addresses, and the frames of one flow after another.

A profile is a class with get_streams(direction, tunables): TRex's console gives tunables by
`start -f FILE -t --clients 1000000`, and asks for the streams of each port with its direction (0: clients' side).
"""

import argparse

from trex_stl_lib.api import (
    IP, TCP, CTRexVmInsFixHwCs, Ether, STLPktBuilder, STLScVmRaw, STLStream, STLTXCont, STLTXSingleBurst,
    STLVmFixChecksumHw, STLVmTupleGen, STLVmWrFlowVar,
)

VIP = "198.18.0.1"
PORT = 80
CLIENTS = "16.0.0.1"
# 64 bytes on the wire less the frame check sequence.
SMALLEST = 60
# Ports of one client address.
PORTS = 1000


def parse(profile, tunables, **defaults):
    """Tunables by name, each with its default; an unknown one is an error."""
    parser = argparse.ArgumentParser(prog=profile, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, (kind, default, text) in defaults.items():
        parser.add_argument("--" + name, type=kind, default=default, help=text)
    return parser.parse_args(tunables)


def clients(count, first):
    """So many clients from an address on: address and port of each, always in the same order."""
    addresses = -(-count // PORTS)
    if not 0 < addresses < 1 << 24:
        raise ValueError("1 to %d clients, not %d" % (PORTS * ((1 << 24) - 1), count))
    last = int.from_bytes(bytes(map(int, first.split("."))), "big") + addresses - 1
    return STLVmTupleGen(name="client", ip_min=first, ip_max=".".join(map(str, last.to_bytes(4, "big"))),
                         port_min=32768, port_max=32768 + PORTS - 1, limit_flows=count)


def segment(count, flags, length, vip, first=CLIENTS):
    """A TCP segment from each client in turn, `length` bytes long, with its checksums left to the NIC."""
    headers = Ether() / IP(src=first, dst=vip) / TCP(dport=PORT, flags=flags, seq=1, ack=int("A" in flags))
    payload = bytes(max(0, length - len(headers)))
    program = STLScVmRaw([
        clients(count, first),
        STLVmWrFlowVar(fv_name="client.ip", pkt_offset="IP.src"),
        STLVmWrFlowVar(fv_name="client.port", pkt_offset="TCP.sport"),
        STLVmFixChecksumHw(l3_offset="IP", l4_offset="TCP", l4_type=CTRexVmInsFixHwCs.L4_TYPE_TCP),
    ])
    return STLPktBuilder(pkt=headers / payload, vm=program)


def opening(name, count, pps, vip, then, first=CLIENTS):
    """A SYN of every client, once; then the stream named `then` begins."""
    return STLStream(name=name, packet=segment(count, "S", SMALLEST, vip, first),
                     mode=STLTXSingleBurst(total_pkts=count, pps=pps), next=then)
