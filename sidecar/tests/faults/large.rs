//! A sidecar that was killed and left a large spool: the next one does not keep anybody waiting for it, and does not take it
//! into memory.

use super::client::NAME_BYTES;
use super::scene::Scene;
use super::wire::Message;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What the spool holds, where `TESTIMONY_SPOOL_MIB` says nothing, in MiB.
const FILLED_MIB_DEFAULT: u64 = 64;
const MIB: u64 = 1024 * 1024;
/// From the start of the process to its first record, on a machine of one's own,
const TAKEN_WITHIN: Duration = Duration::from_secs(1);
/// and on one that is busy with other things.
const TAKEN_WITHIN_BUSY: Duration = Duration::from_secs(20);
/// Peak of the worker's memory, in KiB, whatever the spool holds.
const MEMORY_KIB_MAX: u64 = 128 * 1024;
/// Exchanges with a record.
const RECORDED: &str = "testimony_records_total";
/// The request after the start, as long as all others' names.
const FIRST: &str = "/r/restarts";

#[test]
fn d3_ex_1_over_a_large_spool_traffic_is_taken_at_once_and_all_is_delivered_in_bounded_memory() {
    let by_hand = std::env::var("TESTIMONY_SPOOL_MIB").ok().map(|text| text.parse().expect("a number of MiB"));
    let filled = by_hand.unwrap_or(FILLED_MIB_DEFAULT) * MIB;
    let mut scene = Scene::with_spool("large", filled * 2);
    scene.sink.keep_names_only();
    scene.sink.down();
    let load = scene.heavy_load();
    scene.sidecar.until_it_grows_to("the spool fills", filled, || scene.spool_bytes());
    let asked = load.stop();
    scene.until_the_spool_rests();
    scene.sidecar.kill_all();

    let started = Instant::now();
    scene.sidecar.start();
    scene.sidecar.until("a request is answered", |sidecar| ask(sidecar.inbound, FIRST).is_some());
    let answered = started.elapsed();
    scene.sidecar.until("a record is taken", |sidecar| sidecar.metric(RECORDED) > 0);
    let taken = started.elapsed();
    let left = scene.spool_bytes();
    scene.sink.up();
    let back = Instant::now();
    assert!(asked.iter().all(|one| one.answered.is_some()), "every request was answered");
    let wanted = asked.len() as u64 + 1;
    // What was not durable yet at the kill stands in a gap.
    scene.sidecar.until_it_grows_to("all is delivered", wanted, || scene.sink.names() + scene.sink.in_gaps());
    let delivered = back.elapsed();
    let memory_kib = scene.sidecar.memory_peak_kib();
    println!(
        "figure: a spool of {} MiB with {wanted} records: the next process answered after {answered:?}, took a record after \
         {taken:?} (goal {TAKEN_WITHIN:?}), delivered all in {delivered:?}, with {memory_kib} KiB of memory at most; {} in gaps",
        left / MIB,
        scene.sink.in_gaps(),
    );
    assert!(left >= filled, "{left} bytes were left");
    assert!(scene.sink.has_name(FIRST), "the record of the new process came");
    assert!(taken < if by_hand.is_some() { TAKEN_WITHIN } else { TAKEN_WITHIN_BUSY }, "{taken:?}");
    assert!(memory_kib < MEMORY_KIB_MAX, "{memory_kib} KiB");
    scene.leave();
}

/// `None`: nobody answered.
fn ask(to: SocketAddr, path: &str) -> Option<()> {
    assert_eq!(path.len(), NAME_BYTES);
    let mut stream = TcpStream::connect(to).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n").as_bytes()).ok()?;
    Message::read(&mut BufReader::new(stream)).map(drop)
}
