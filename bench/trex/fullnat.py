"""Established connections: every client opens one, then all send acknowledgements, round and round.

Tunables: clients, opening, length, vip. The multiplier scales both: at `-m 10000` a million connections open in a second.
"""

from weir_flows import SMALLEST, VIP, STLStream, STLTXCont, opening, parse, segment


class Profile:
    def get_streams(self, direction=0, tunables=(), **kwargs):
        args = parse("fullnat", tunables,
                     clients=(int, 1_000_000, "connections"),
                     opening=(int, 100, "SYNs for 1000 acknowledgements, in pps at -m 1"),
                     length=(int, SMALLEST, "bytes of a frame without FCS"),
                     vip=(str, VIP, "virtual address"))
        if direction != 0:
            return []
        return [
            opening("open", args.clients, args.opening, args.vip, "established"),
            STLStream(name="established", self_start=False, packet=segment(args.clients, "A", args.length, args.vip),
                      mode=STLTXCont(pps=1000)),
        ]


def register():
    return Profile()
