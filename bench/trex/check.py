"""Loads the profiles as TRex does, without TRex's server, and looks at what they make."""

import importlib
import importlib.util
import ipaddress
import json
import pathlib
import re
import sys
import tomllib


class Six:
    """Gives TRex's scapy the six of PyPI: its own can't be loaded by Python 3.12 and later."""

    def find_spec(self, name, path=None, target=None):
        if name == "scapy.modules.six" or name.startswith("scapy.modules.six."):
            return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec):
        return importlib.import_module(spec.name.removeprefix("scapy.modules."))

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Six())

# TRex first: it brings scapy.
from trex.astf.api import ASTFProfile
from trex.stl.api import IP, TCP, Ether, STLProfile

here = pathlib.Path(__file__).parent


def streams(name, **tunables):
    arguments = [word for key, value in tunables.items() for word in ("--" + key, str(value))]
    profile = STLProfile.load_py(str(here / (name + ".py")), direction=0, port_id=0, tunables=arguments)
    made = {stream.get_name(): stream for stream in profile.get_streams()}
    for stream in made.values():
        stream.to_json()
        following = stream.get_next()
        assert following is None or following in made, (name, following)
    return made


def packet(stream):
    return Ether(stream.get_pkt())


def refused(call):
    try:
        call()
    except (Exception, SystemExit):
        return True
    return False


def flows(stream):
    made = [i for i in stream.to_json()["vm"]["instructions"] if i["type"] == "tuple_flow_var"]
    assert len(made) == 1, stream.get_name()
    return made[0]


flood = streams("syn_flood", clients=1500)
assert packet(flood["syn"])[TCP].flags == "S" and len(flood["syn"].get_pkt()) == 60
assert packet(flood["syn"])[IP].dst == "198.18.0.1"
assert flows(flood["syn"])["limit_flows"] == 1500
assert not STLProfile.load_py(str(here / "syn_flood.py"), direction=1, port_id=1).get_streams()

fullnat = streams("fullnat", clients=1000, vip="192.0.2.1")
assert set(fullnat) == {"open", "established"} and fullnat["open"].get_next() == "established"
assert fullnat["open"].to_json()["mode"]["total_pkts"] == 1000
assert packet(fullnat["established"])[TCP].flags == "A" and packet(fullnat["open"])[IP].dst == "192.0.2.1"
# What opens a connection and what uses it come from the same clients.
keys = ("ip_min", "ip_max", "port_min", "port_max", "limit_flows")
assert [flows(fullnat["open"])[k] for k in keys] == [flows(fullnat["established"])[k] for k in keys]

imix = streams("imix")
assert [len(imix[name].get_pkt()) for name in ("small", "middle", "large")] == [60, 590, 1514]
rates = [imix[name].to_json()["mode"]["rate"]["value"] for name in ("small", "middle", "large")]
assert [rate / rates[2] for rate in rates] == [7, 4, 1], rates
assert len({flows(imix[name])["ip_min"] for name in ("small", "middle", "large")}) == 3

http = ASTFProfile.load(str(here / "astf_http.py"), tunables=["--clients", "300", "--size", "100"])
made = http.to_json_str()
made = json.loads(made) if isinstance(made, str) else made
ranges = [(d["ip_start"], d["ip_end"]) for d in made["ip_gen_dist_list"]]
assert ("16.0.0.1", "16.0.1.44") in ranges and ("198.18.0.1", "198.18.0.1") in ranges, ranges
assert made["templates"][0]["client_template"]["port"] == 80



def unreachable(trex, weir):
    """What in TRex's and Weir's configuration doesn't reach its other end, one line each."""
    ports = tomllib.loads(weir)["port"]
    networks = [[ipaddress.ip_interface(a) for a in port["addresses"]] for port in ports]
    ends = re.findall(r"ip: (\S+)\n\s*default_gw: (\S+)", trex)
    assert len(ends) == 2, trex
    wrong = []
    for n, (ip, gateway) in enumerate(ends):
        own = networks[min(n, len(networks) - 1)]
        if not any(i.network.prefixlen < 32 and ipaddress.ip_address(ip) in i.network for i in own):
            wrong.append("TRex's %s is in no network of Weir's port %d" % (ip, n))
        if ipaddress.ip_address(gateway) not in [i.ip for i in own]:
            wrong.append("TRex's gateway %s isn't an address of Weir's port %d" % (gateway, n))
    for route in tomllib.loads(weir)["route"]:
        own = next(networks[n] for n, port in enumerate(ports) if port["name"] == route["port"])
        if not any(i.network.prefixlen < 32 and ipaddress.ip_address(route["via"]) in i.network for i in own):
            wrong.append("the next hop %s isn't on the link of %s" % (route["via"], route["port"]))
    nets = [i.network for port in networks for i in port if i.network.prefixlen < 32]
    if len(set(nets)) != len(nets):
        wrong.append("two of Weir's ports are in one network")
    return wrong


for trex, weir in (("two_ports.yaml", "weir.toml"), ("one_arm.yaml", "one_arm.toml")):
    trex, weir = (here / trex).read_text(), (here / weir).read_text()
    assert not unreachable(trex, weir), unreachable(trex, weir)
    # A gateway in the other half of the network is noticed.
    assert unreachable(trex.replace("192.0.2.1\n", "192.0.2.129\n"), weir.replace("/24", "/25"))

for name in ("syn_flood", "fullnat", "imix"):
    assert refused(lambda: streams(name, nonsense=1)), name
    assert refused(lambda: streams(name, clients=0)), name
print("trex: 4 profiles load")
