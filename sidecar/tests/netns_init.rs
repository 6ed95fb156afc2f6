//! The redirect rules in a real kernel: what they capture, with which original destination, and what they leave alone.
//! Runs in network namespaces of its own; needs root, iproute2 and nftables (the `nft` program is the oracle).

#[path = "support/netns.rs"]
mod netns;
#[path = "support/privileges.rs"]
mod privileges;

use std::net::{TcpListener, UdpSocket};

use libtest_mimic::{Arguments, Failed, Trial};
use netns::{
    DEADLINE, Netns, PEER_V4, PEER_V6, POD_V4, POD_V6, Pair, accept, address, assert_none_waits, connect, listen,
};
use testimony_core::contract::{id, port};
use testimony_sidecar::init::{self, Canary, InitConfig, InitReport};
use testimony_sidecar::redirect_dst::{original_destination, unmapped};

/// A user and a group as an application has them.
const APP: (u32, u32) = (1000, 1000);
const OUTBOUND: &str = "[::]:24802";
const INBOUND: &str = "[::]:24801";

fn main() {
    if let Some(code) = privileges::helper() {
        std::process::exit(code);
    }
    let trials = [
        test("outbound_connections_come_with_their_destination", outbound_connections_come_with_their_destination),
        test("the_sidecars_user_with_its_group_passes", the_sidecars_user_with_its_group_passes),
        test("the_sidecars_user_or_group_alone_is_redirected", the_sidecars_user_or_group_alone_is_redirected),
        test("loopback_and_own_addresses_are_left_alone", loopback_and_own_addresses_are_left_alone),
        test("excluded_ports_are_left_alone", excluded_ports_are_left_alone),
        test("inbound_connections_come_with_their_destination", inbound_connections_come_with_their_destination),
        test("our_own_listeners_are_told_by_their_destination", our_own_listeners_are_told_by_their_destination),
        test("the_admin_port_is_reached_directly", the_admin_port_is_reached_directly),
        test("forwarded_connections_are_not_redirected", forwarded_connections_are_not_redirected),
        test("udp_is_left_alone", udp_is_left_alone),
        test("nft_lists_the_same_rules_after_one_run_and_two", nft_lists_the_same_rules_after_one_run_and_two),
        test("a_running_sidecar_does_not_stop_init", a_running_sidecar_does_not_stop_init),
        test("uninstall_leaves_nothing", uninstall_leaves_nothing),
        test("the_canary_does_not_leave_the_pod", the_canary_does_not_leave_the_pod),
        test("a_family_without_a_route_is_told", a_family_without_a_route_is_told),
        test("rules_that_do_not_hold_are_an_error", rules_that_do_not_hold_are_an_error),
        test("permitted_only_file_capability", privileges::permitted_only_file_capability),
        test("the_sidecars_own_identity_is_refused", privileges::the_sidecars_own_identity_is_refused),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn test(name: &'static str, body: fn()) -> Trial {
    Trial::test(name, move || {
        // SAFETY: this system call takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return Err(Failed::from("network-namespace tests need root: run them as root, they are never skipped"));
        }
        body();
        Ok(())
    })
}

fn run_init(netns: &Netns) -> InitReport {
    netns.run(|| init::run(&InitConfig::default())).expect("init")
}

/// A pod with the rules in force, and its listeners for redirected connections.
struct Redirected {
    pair: Pair,
    inbound: TcpListener,
    outbound: TcpListener,
}

fn redirected() -> Redirected {
    let pair = Pair::new();
    run_init(&pair.pod);
    let (inbound, outbound) = (listen(&pair.pod, INBOUND), listen(&pair.pod, OUTBOUND));
    Redirected { pair, inbound, outbound }
}

/// Connects to `to` as this user and group; the connection has to come to our outbound listener, and to say where to.
fn assert_captured(world: &Redirected, (uid, gid): (u32, u32), to: &str) {
    let client = world.pair.pod.run_as(uid, gid, || connect(to));
    let (server, peer) = accept(&world.outbound);
    assert_eq!(unmapped(peer), client.local_addr().expect("address"));
    assert_eq!(original_destination(&server).expect("original destination"), address(to));
    assert_none_waits(&world.inbound);
}

fn outbound_connections_come_with_their_destination() {
    let world = redirected();
    for to in ["10.99.0.2:80", "[fd00:99::2]:80", "203.0.113.7:5432", "[2001:db8:7::1]:5432", "10.99.0.2:24803"] {
        assert_captured(&world, APP, to);
    }
    assert_captured(&world, (0, 0), "10.99.0.2:80");
}

fn the_sidecars_user_with_its_group_passes() {
    let world = redirected();
    for to in [format!("{PEER_V4}:80"), format!("[{PEER_V6}]:80")] {
        let origin = listen(&world.pair.peer, &to);
        let client = world.pair.pod.run_as(id::SIDECAR_UID, id::SIDECAR_GID, || connect(&to));
        assert_eq!(accept(&origin).1, client.local_addr().expect("address"));
        assert_none_waits(&world.outbound);
    }
}

fn the_sidecars_user_or_group_alone_is_redirected() {
    let world = redirected();
    for identity in [(id::SIDECAR_UID, 1000), (1000, id::SIDECAR_GID), (id::INIT_UID, id::INIT_GID)] {
        assert_captured(&world, identity, "10.99.0.2:80");
        assert_captured(&world, identity, "[fd00:99::2]:80");
    }
}

fn loopback_and_own_addresses_are_left_alone() {
    let world = redirected();
    for host in ["127.0.0.1", "127.8.8.8", "[::1]", POD_V4, "[fd00:99::1]"] {
        let to = format!("{host}:8080");
        let origin = listen(&world.pair.pod, &to);
        let client = world.pair.pod.run_as(APP.0, APP.1, || connect(&to));
        assert_eq!(accept(&origin).1, client.local_addr().expect("address"));
        assert_none_waits(&world.outbound);
        assert_none_waits(&world.inbound);
    }
}

fn excluded_ports_are_left_alone() {
    let pair = Pair::new();
    let config = InitConfig { exclude_outbound_ports: vec![6379, 6380], ..InitConfig::default() };
    pair.pod.run(|| init::run(&config)).expect("init");
    let (inbound, outbound) = (listen(&pair.pod, INBOUND), listen(&pair.pod, OUTBOUND));
    let world = Redirected { pair, inbound, outbound };
    for to in [format!("{PEER_V4}:6379"), format!("[{PEER_V6}]:6380")] {
        let origin = listen(&world.pair.peer, &to);
        let _client = world.pair.pod.run_as(APP.0, APP.1, || connect(&to));
        accept(&origin);
        assert_none_waits(&world.outbound);
    }
    assert_captured(&world, APP, "10.99.0.2:6381");
}

/// Connects from the peer to `to`, an address of the pod; the connection has to come to our inbound listener.
fn assert_inbound(world: &Redirected, to: &str) {
    let client = world.pair.peer.run(|| connect(to));
    let (server, peer) = accept(&world.inbound);
    assert_eq!(unmapped(peer), client.local_addr().expect("address"), "the client's own address is kept");
    assert_eq!(original_destination(&server).expect("original destination"), address(to));
    assert_none_waits(&world.outbound);
}

fn inbound_connections_come_with_their_destination() {
    let world = redirected();
    let application = listen(&world.pair.pod, "[::]:8080");
    for to in ["10.99.0.1:8080", "[fd00:99::1]:8080", "10.99.0.1:81", "[fd00:99::1]:81"] {
        assert_inbound(&world, to);
    }
    assert_none_waits(&application);
    // What the sidecar dials from inside the pod reaches the application itself.
    for to in [format!("{POD_V4}:8080"), format!("[{POD_V6}]:8080")] {
        let _client = world.pair.pod.run_as(id::SIDECAR_UID, id::SIDECAR_GID, || connect(&to));
        accept(&application);
    }
}

fn our_own_listeners_are_told_by_their_destination() {
    let world = redirected();
    for listener in [port::INBOUND, port::OUTBOUND] {
        assert_inbound(&world, &format!("{POD_V4}:{listener}"));
        assert_inbound(&world, &format!("[{POD_V6}]:{listener}"));
    }
}

fn the_admin_port_is_reached_directly() {
    let world = redirected();
    let admin = listen(&world.pair.pod, "[::]:24803");
    for to in ["10.99.0.1:24803", "[fd00:99::1]:24803"] {
        let _client = world.pair.peer.run(|| connect(to));
        accept(&admin);
        assert_none_waits(&world.inbound);
    }
}

fn forwarded_connections_are_not_redirected() {
    let world = redirected();
    // The pod would have to forward this, which is switched off; redirected, it would be established at once.
    world.pair.peer.sh(&format!("ip route add 198.51.100.0/24 via {POD_V4}"));
    let to = address("198.51.100.1:80");
    let wait = std::time::Duration::from_millis(300);
    world.pair.peer.run(|| std::net::TcpStream::connect_timeout(&to, wait)).expect_err("nobody is there");
    assert_none_waits(&world.inbound);
}

fn udp_is_left_alone() {
    let world = redirected();
    let receive = |socket: &UdpSocket| {
        socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
        let mut buffer = [0; 16];
        let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
        (buffer.get(..length).expect("in range").to_vec(), from)
    };
    for (pod, peer) in [(POD_V4.to_owned(), PEER_V4.to_owned()), (format!("[{POD_V6}]"), format!("[{PEER_V6}]"))] {
        let server = world.pair.peer.run(|| UdpSocket::bind(address(&format!("{peer}:53"))).expect("bind"));
        let client = world.pair.pod.run_as(APP.0, APP.1, || UdpSocket::bind(address(&format!("{pod}:5353"))));
        let client = client.expect("bind");
        client.send_to(b"out", server.local_addr().expect("address")).expect("send");
        assert_eq!(receive(&server), (b"out".to_vec(), client.local_addr().expect("address")));
        server.send_to(b"in", client.local_addr().expect("address")).expect("send");
        assert_eq!(receive(&client), (b"in".to_vec(), server.local_addr().expect("address")));
        // Unasked, from outside, to the port of a redirected protocol.
        let other = world.pair.peer.run(|| UdpSocket::bind(address(&format!("{peer}:24801"))).expect("bind"));
        other.send_to(b"new", client.local_addr().expect("address")).expect("send");
        assert_eq!(receive(&client).0, b"new");
    }
}

fn nft_lists_the_same_rules_after_one_run_and_two() {
    let pair = Pair::new();
    let wanted = expect_test::expect![[r#"
        table inet testimony {
        	chain output {
        		type nat hook output priority -100; policy accept;
        		meta skuid 62819 meta skgid 62820 return
        		oif "lo" return
        		fib daddr type local return
        		meta l4proto tcp redirect to :24802
        	}

        	chain prerouting {
        		type nat hook prerouting priority dstnat; policy accept;
        		iif "lo" return
        		fib daddr type != local return
        		tcp dport 24803 return
        		meta l4proto tcp redirect to :24801
        	}
        }
    "#]];
    let report = run_init(&pair.pod);
    let once = pair.pod.sh("nft list ruleset");
    wanted.assert_eq(&once);
    assert_eq!(run_init(&pair.pod), report);
    assert_eq!(pair.pod.sh("nft list ruleset"), once);
    // Whatever stood in the table before is gone as well; other tables stay.
    pair.pod.nft("add rule inet testimony output tcp dport 1 accept\nadd table inet other");
    run_init(&pair.pod);
    assert_eq!(pair.pod.sh("nft list table inet testimony"), once);
    pair.pod.sh("nft list table inet other");
}

fn a_running_sidecar_does_not_stop_init() {
    let world = redirected();
    let report = run_init(&world.pair.pod);
    assert_eq!(report, InitReport { ipv4: Canary::ListenerBusy, ipv6: Canary::ListenerBusy });
    assert_none_waits(&world.outbound);
    assert_captured(&world, APP, "10.99.0.2:80");
}

fn uninstall_leaves_nothing() {
    let pair = Pair::new();
    run_init(&pair.pod);
    for _ in 0..2 {
        pair.pod.run(init::uninstall).expect("uninstall");
        assert_eq!(pair.pod.sh("nft list ruleset"), "");
    }
    let to = format!("{PEER_V4}:80");
    let origin = listen(&pair.peer, &to);
    let _client = pair.pod.run_as(APP.0, APP.1, || connect(&to));
    accept(&origin);
}

fn the_canary_does_not_leave_the_pod() {
    let pair = Pair::new();
    pair.peer.nft(
        "add table inet seen
         add chain inet seen arrived { type filter hook prerouting priority -300; }
         add rule inet seen arrived meta l4proto tcp counter",
    );
    let report = run_init(&pair.pod);
    assert_eq!(
        report,
        InitReport {
            ipv4: Canary::Redirected(address("192.0.2.1:9")),
            ipv6: Canary::Redirected(address("[2001:db8::1]:9")),
        }
    );
    let seen = || pair.peer.sh("nft list table inet seen");
    assert!(seen().contains("counter packets 0 "), "{}", seen());
    // The count does count.
    let to = format!("{PEER_V4}:80");
    let _origin = listen(&pair.peer, &to);
    let _client = pair.pod.run_as(id::SIDECAR_UID, id::SIDECAR_GID, || connect(&to));
    assert!(!seen().contains("counter packets 0 "), "{}", seen());
}

fn a_family_without_a_route_is_told() {
    let alone = Netns::new();
    assert_eq!(run_init(&alone), InitReport { ipv4: Canary::NoRoute, ipv6: Canary::NoRoute });

    let pair = Pair::new();
    pair.pod.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let report = run_init(&pair.pod);
    assert_eq!(report.ipv4, Canary::Redirected(address("192.0.2.1:9")));
    assert_eq!(report.ipv6, Canary::NoRoute);

    // A router announces itself, but no prefix: only link-local addresses.
    let pair = Pair::new();
    pair.pod.sh(&format!("ip -6 addr del {POD_V6}/64 dev eth0"));
    pair.pod.sh("ip -6 addr add fe80::99/64 dev eth0 nodad");
    pair.pod.sh("ip -6 route replace default via fe80::1 dev eth0");
    assert_eq!(run_init(&pair.pod).ipv6, Canary::NoRoute);
}

fn rules_that_do_not_hold_are_an_error() {
    for (family, rule, wanted) in [
        ("ip", "tcp dport 9 redirect to :1", "a connection to 192.0.2.1:9 did not come to our own port 24802: "),
        (
            "ip6",
            "tcp dport 9 dnat to [fd00:99::2]:1",
            "a connection to [2001:db8::1]:9 did not come to our own port 24802: ",
        ),
    ] {
        let pair = Pair::new();
        // Another table that translates destinations first.
        pair.pod.nft(&format!(
            "add table {family} other
             add chain {family} other output {{ type nat hook output priority -110; }}
             add rule {family} other output {rule}"
        ));
        let error = pair.pod.run(|| init::run(&InitConfig::default())).expect_err("the rules do not hold");
        assert_eq!(error.exit_code(), 95, "{error}");
        assert!(error.to_string().starts_with(wanted), "{error}");
    }
}
