//! What the spool costs for each record: `cargo bench -p testimony-sidecar --bench spool`.
//!
//! CPU of all threads of the process (user and system), over records of about 1 KiB that reach the disk in a temporary
//! folder. Prints one line for each size of the groups in which they come.

use std::path::Path;
use std::time::{Duration, Instant};
use testimony_core::evidence::hash::Hash;
use testimony_sidecar::spool::{Boot, Class, Entry, Kind, Limits, Read, Settings, SinkRule, Spool};

const RECORDS: u64 = 200_000;

fn main() {
    let folder = std::env::temp_dir().join(format!("testimony-bench-{}", std::process::id()));
    for group in [1, 16, 80, 256, 4096] {
        run(&folder, group);
    }
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

fn run(folder: &Path, group: u64) {
    let boot = Boot(u128::from(group).to_be_bytes());
    let memory = folder.join("memory");
    std::fs::create_dir_all(&memory).expect("a folder");
    let settings = Settings {
        folder: folder.join("disk"),
        key_folder: memory,
        limit_bytes: 1024 * 1024 * 1024,
        limits: Limits::default(),
        boot,
        recovery: None,
        now_unix_nanos: || 1,
    };
    let sinks = [SinkRule { name: "a".to_owned(), required: true }];
    let (spool, _events) = Spool::start(settings, &sinks).expect("a spool");
    let handle = spool.handle().clone();
    let stream = handle.inbox().add_stream(format!("c/n/p/{boot}-0-0").parse().expect("a name"), 0);
    // Groups of one wait for the disk each, as Strict does with one exchange in flight.
    let records = if group == 1 { 2_000 } else { RECORDS };
    let payloads: Vec<Vec<u8>> = (0..64).map(payload).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (started, cpu) = (Instant::now(), cpu());
    let mut pushing = Duration::ZERO;
    let mut last = None;
    for seq in 0..records {
        let payload = payloads.get(usize::try_from(seq % 64).expect("small")).expect("a payload");
        let push = Instant::now();
        loop {
            let Ok(mut permit) = handle.inbox().reserve(Class::Ordinary, payload.len()) else {
                std::thread::yield_now();
                continue;
            };
            last = Some(
                permit.push(Entry::new(stream, Kind::Exchange, seq, Hash([1; 32]), 1), payload).expect("in order"),
            );
            break;
        }
        pushing += push.elapsed();
        if let Some(last) = last.filter(|_| seq % group == group - 1) {
            assert!(runtime.block_on(handle.inbox().wait_durable(last, Duration::from_secs(60))));
        }
    }
    let last = last.expect("records");
    assert!(runtime.block_on(handle.inbox().wait_durable(last, Duration::from_secs(60))));
    let (wall, written) = (started.elapsed(), self::cpu() - cpu);
    let bytes = handle.stats().used_bytes;
    let cpu = self::cpu();
    let mut reader = handle.reader(boot, "a").expect("a reader");
    let mut read = 0;
    while let Read::Block(block) = reader.read().expect("readable") {
        read += block.iter().count() as u64;
    }
    assert_eq!(read, records);
    println!(
        "groups of {group:>4}: {:>5} ns CPU a record, {:>4} ns of it to put it (wall), {:>7.0} records/s, {:>4} bytes on \
         disk; read back {:>4} ns",
        written.as_nanos() / u128::from(records),
        pushing.as_nanos() / u128::from(records),
        f64::from(u32::try_from(records).expect("small")) / wall.as_secs_f64(),
        bytes / records,
        (self::cpu() - cpu).as_nanos() / u128::from(records),
    );
    drop(spool);
}

/// About what a sealed exchange is: a canonical body and its projection.
fn payload(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut hex = |digits: usize| {
        let mut text = String::new();
        while text.len() < digits {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            text.push_str(&format!("{random:016x}"));
        }
        text.truncate(digits);
        text
    };
    for _ in 0..2 {
        let (id, trace, span, prev) = (hex(32), hex(32), hex(16), hex(64));
        let text = format!(
            r#"{{"action":"GET","actor":"system:serviceaccount:shop:web","assurance":"unverified","dir":"inbound","id":"{id}","local":"10.244.1.{number}:8080","method":"GET","outcome":"success","path":"/v1/orders/{number}/items","peer":"10.244.2.17:{number}0123","policy_revision":"aabbccdd00112233","prev":"{prev}","proto":"http/1.1","rule":"shop/orders#writes","seq":"{number}","sid":"c/shop/p/0-0","span_id":"{span}","status":"200","trace_id":"{trace}","typ":"exchange","v":"1"}}"#
        );
        bytes.extend(text.bytes());
    }
    bytes
}

/// Of all threads that live.
fn cpu() -> Duration {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task").expect("tasks") {
        let path = task.expect("a task").path().join("schedstat");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
        total += Duration::from_nanos(nanos);
    }
    total
}
