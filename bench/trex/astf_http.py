"""HTTP by TRex's own TCP (ASTF): many clients fetch a page from the virtual service, one connection each.

TRex's second port is all real servers: it accepts whatever address Weir sends a connection to, on port 80.
Tunables: clients, size, cps, vip.
"""

from weir_flows import PORT, VIP, parse
from trex.astf.api import (
    ASTFAssociationRule, ASTFIPGen, ASTFIPGenDist, ASTFIPGenGlobal, ASTFProfile, ASTFProgram, ASTFTCPClientTemplate,
    ASTFTCPServerTemplate, ASTFTemplate,
)

REQUEST = b"GET /page HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n"


class Profile:
    def get_profile(self, tunables=(), **kwargs):
        args = parse("http", tunables,
                     clients=(int, 65_000, "client addresses"),
                     size=(int, 1024, "bytes of a page"),
                     cps=(float, 1.0, "connections a second at -m 1"),
                     vip=(str, VIP, "virtual address"))
        if not 0 < args.clients < 1 << 24:
            raise ValueError("1 to %d clients, not %d" % ((1 << 24) - 1, args.clients))
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % args.size
        response = head + b"*" * args.size
        client = ASTFProgram()
        client.send(REQUEST)
        client.recv(len(response))
        server = ASTFProgram()
        server.recv(len(REQUEST))
        server.send(response)
        last = (16 << 24) + args.clients
        addresses = ASTFIPGen(
            glob=ASTFIPGenGlobal(ip_offset="1.0.0.0"),
            dist_client=ASTFIPGenDist(ip_range=["16.0.0.1", ".".join(map(str, last.to_bytes(4, "big")))]),
            dist_server=ASTFIPGenDist(ip_range=[args.vip, args.vip]),
        )
        template = ASTFTemplate(
            client_template=ASTFTCPClientTemplate(program=client, ip_gen=addresses, cps=args.cps, port=PORT),
            server_template=ASTFTCPServerTemplate(program=server, assoc=ASTFAssociationRule(port=PORT)),
        )
        return ASTFProfile(default_ip_gen=addresses, templates=template)


def register():
    return Profile()
