"""The report has Weave's keys in Weave's places, and what is new beside them."""

from __future__ import annotations

import json

from meshd.control.render import render_json
from meshd.control.report import build_report
from tests.control.samples import BRIDGE_MAC, HOST1, HOST2, HOST3, alone, node_view, router_view


def test_weaves_keys_are_there() -> None:
    report = build_report(router_view())
    assert report["Ready"] is True
    assert report["Version"] == "0.1.0"
    assert report["VersionCheck"] == {"Enabled": False, "Success": False, "NewVersion": "", "NextCheckAt": None}
    router = report["Router"]
    assert {name: router[name] for name in ("Protocol", "ProtocolMinVersion", "ProtocolMaxVersion")} == {
        "Protocol": "meshd",
        "ProtocolMinVersion": 1,
        "ProtocolMaxVersion": 1,
    }
    assert (router["Encryption"], router["PeerDiscovery"], router["Port"]) == (True, True, 6783)
    assert (router["Name"], router["NickName"]) == (HOST1, "host1")
    assert router["Targets"] == ["192.168.48.12", "host3.example.com:6800"]
    assert router["UnicastRoutes"] == [{"Dest": HOST2, "Via": HOST2}, {"Dest": HOST3, "Via": ""}]
    assert router["BroadcastRoutes"] == [{"Source": HOST1, "Via": [HOST2, HOST3]}]
    assert router["TrustedSubnets"] == []
    assert router["CaptureStats"] is None
    assert router["Interface"] == "meshd-tap (via tap)"


def test_peers_carry_their_connections() -> None:
    first = build_report(router_view())["Router"]["Peers"][0]
    assert (first["Name"], first["UID"], first["ShortID"]) == (HOST1, "4a0ff6ec1c93" + "00" * 10, "4a0ff6ec1c930000")
    assert first["Connections"][1] == {
        "Name": HOST3,
        "NickName": "host3",
        "Address": "192.168.48.13:60773",
        "Outbound": False,
        "Established": False,
    }


def test_what_weave_did_not_show() -> None:
    report = build_report(router_view(), bridge_mac=BRIDGE_MAC)
    assert report["Drops"] == {"bad_mac1": 12, "replayed": 3, "truncated": 0}
    assert report["Bridge"] == {"Name": "meshd", "Mac": BRIDGE_MAC, "MTU": 1372}
    assert report["Gossip"] == {"Hosts": 3, "Records": 12, "Bytes": 3456, "RootHash": "abcd", "Epoch": 7}
    assert report["Process"] == {"Pid": 4242, "UptimeS": 3700.0, "RssMiB": 41.3}
    assert report["Paths"][0]["RttMs"] == 0.416
    assert report["Paths"][1]["RttMs"] is None
    assert report["Router"]["OverlayDiagnostics"]["meshd"]["Paths"] == report["Paths"]
    assert [one["Label"] for one in report["Attachments"]] == ["5e2b3c4d5e6f", "5e99aabbccdd"]


def test_local_macs_come_first() -> None:
    assert [mac["Local"] for mac in build_report(router_view())["Router"]["MACs"]] == [True, False]


def test_an_unencrypted_mesh_says_so() -> None:
    report = build_report(router_view(node_view(suite="plain")))
    assert report["Router"]["Encryption"] is False
    assert report["Mesh"]["Suite"] == "plain"


def test_the_same_view_gives_the_same_text_and_it_is_json() -> None:
    first, second = (render_json(build_report(router_view())) for _ in range(2))
    assert first == second
    assert json.loads(first) == build_report(router_view())
    assert first.startswith('{\n    "Ready": true,\n    "Version"')
    assert first.endswith("}\n")


def test_a_router_without_anybody_has_empty_parts_not_missing_ones() -> None:
    full, empty = build_report(router_view()), build_report(alone(), ready=False)
    assert empty["Ready"] is False
    assert full.keys() == empty.keys()
    assert full["Router"].keys() == empty["Router"].keys()
