"""Established connections with the usual mix of frames: 64, 594 and 1518 bytes on the wire, 7 to 4 to 1.

Each size has clients of its own, which open a connection each before their segments begin.
Tunables: clients, opening, vip.
"""

from weir_flows import VIP, STLStream, STLTXCont, opening, parse, segment

# First client, bytes without FCS, and how many of twelve.
SIZES = [("small", "16.0.0.1", 60, 7), ("middle", "17.0.0.1", 590, 4), ("large", "18.0.0.1", 1514, 1)]


class Profile:
    def get_streams(self, direction=0, tunables=(), **kwargs):
        args = parse("imix", tunables,
                     clients=(int, 100_000, "connections of each size"),
                     opening=(int, 100, "SYNs of each size for 1200 segments, in pps at -m 1"),
                     vip=(str, VIP, "virtual address"))
        if direction != 0:
            return []
        streams = []
        for name, first, length, share in SIZES:
            streams.append(opening("open-" + name, args.clients, args.opening, args.vip, name, first))
            packet = segment(args.clients, "PA", length, args.vip, first)
            streams.append(STLStream(name=name, self_start=False, packet=packet, mode=STLTXCont(pps=100 * share)))
        return streams


def register():
    return Profile()
