"""New connections: a SYN from one client after another, without end.

Tunables: clients, vip. The rate is the console's: `start -f syn_flood.py -m 1mpps -p 0`.
"""

from weir_flows import SMALLEST, VIP, STLStream, STLTXCont, parse, segment


class Profile:
    def get_streams(self, direction=0, tunables=(), **kwargs):
        args = parse("syn_flood", tunables,
                     clients=(int, 2_000_000, "distinct clients"), vip=(str, VIP, "virtual address"))
        if direction != 0:
            return []
        return [STLStream(name="syn", packet=segment(args.clients, "S", SMALLEST, args.vip), mode=STLTXCont(pps=1))]


def register():
    return Profile()
