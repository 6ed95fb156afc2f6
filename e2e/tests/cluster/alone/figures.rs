//! What Testimony costs: printed in lines that begin with `figure:`.

use super::{alone, sidecar_processes, status_field};
use crate::harness::{Space, cluster, eventually, init_containers, single};
use crate::objects::{audited, text};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pods of each kind whose start is measured.
const STARTS: usize = 20;
/// Most that a sidecar may delay the median pod, in milliseconds. The goal is 2500, which is printed with the figure; the
/// test fails only where something is broken, not where the machine is busy.
const START_DELAY_MILLIS_MAX: f64 = 7500.0;
/// Age of a sidecar whose memory counts, in seconds.
const IDLE_SECONDS: u64 = 60;
/// Most memory of an idle sidecar, its share of shared pages included (PSS), in KiB.
const IDLE_PSS_KIB_MAX: u32 = 10 * 1024;
/// Rounds of requests, direct and through the sidecar in turn.
const LATENCY_ROUNDS: usize = 21;
/// Requests of a round.
const LATENCY_REQUESTS: usize = 400;
/// Most that a sidecar may add to the median request, in milliseconds. The goal is 0.3; as above.
const LATENCY_ADDED_MILLIS_MAX: f64 = 2.0;
/// How long one answer may take, in seconds.
const ANSWER_SECONDS_MAX: u64 = 10;
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[test]
fn start_delay_memory_and_latency_are_within_their_bounds() -> Result<()> {
    let _alone = alone();
    let idle = audited("figures", "rules: []")?;
    idle.policy("starts", "{podSelector: {matchLabels: {app: starter}}}")?;
    let since = Instant::now();
    let other = Space::new("plain")?;
    other.httpbin("server")?;

    let (with, without) = starts(&idle, &other)?;
    let delay = median(with.clone()) - median(without.clone());
    println!(
        "figure: pod start, median of {STARTS}: {:.0} ms with a sidecar, {:.0} ms without: {delay:.0} ms later",
        median(with),
        median(without)
    );
    eventually("the sidecar to be old enough", 2 * IDLE_SECONDS, || Ok(since.elapsed().as_secs() >= IDLE_SECONDS))?;
    let memory = idle_memory(&idle)?;
    println!("figure: memory of an idle sidecar after {} s: {memory} KiB PSS", since.elapsed().as_secs());
    let (direct, added) = latency(&idle, &other)?;
    println!(
        "figure: latency, p50 of one connection, 200 B: {direct:.3} ms direct, {added:.3} ms more through a sidecar"
    );

    ensure!(delay <= START_DELAY_MILLIS_MAX, "a sidecar delays a pod's start by {delay:.0} ms");
    ensure!(memory <= IDLE_PSS_KIB_MAX, "an idle sidecar takes {memory} KiB");
    ensure!(added < LATENCY_ADDED_MILLIS_MAX, "a sidecar adds {added:.3} ms");
    Ok(())
}

/// Milliseconds from creation to readiness of pods with and without a sidecar, made in turn.
fn starts(with: &Space, without: &Space) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut times = (Vec::new(), Vec::new());
    for number in 0..STARTS {
        times.0.push(start(with, number, true)?);
        times.1.push(start(without, number, false)?);
    }
    Ok(times)
}

fn start(space: &Space, number: usize, injected: bool) -> Result<f64> {
    let name = format!("start-{number}");
    let begun = Instant::now();
    space.toolbox(&name, "{app: starter}")?;
    let millis = begun.elapsed().as_secs_f64() * 1000.0;
    let pod = cluster().kubectl.get(&space.name, &["pod", &name])?;
    ensure!(init_containers(&pod).is_empty() != injected, "{name} is not as wanted: {pod:#}");
    cluster().kubectl.run(&["delete", "pod", &name, "-n", &space.name, "--wait=false"])?;
    Ok(millis)
}

/// PSS of supervisor and worker, in KiB.
fn idle_memory(space: &Space) -> Result<u32> {
    let pod = single(space.pods("server")?)?;
    let processes = sidecar_processes(&text(&pod, "/metadata/uid"))?;
    let mut sum = 0;
    for pid in processes.keys() {
        let file = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
        sum += status_field(&file, "Pss:").with_context(|| format!("{} has no Pss", file.display()))?;
    }
    Ok(sum)
}

/// A kept-alive connection to a pod.
struct Connection(TcpStream);

impl Connection {
    fn to(space: &Space) -> Result<Self> {
        let address = text(&single(space.pods("server")?)?, "/status/podIP");
        let address = std::net::SocketAddr::new(address.parse()?, 8080);
        let timeout = Duration::from_secs(ANSWER_SECONDS_MAX);
        let stream = TcpStream::connect_timeout(&address, timeout)
            .with_context(|| format!("{address}: this test needs the local cluster"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(Self(stream))
    }

    /// Milliseconds of one request.
    fn request(&mut self) -> Result<f64> {
        let begun = Instant::now();
        self.0.write_all(b"GET /bytes/200?seed=1 HTTP/1.1\r\nHost: server\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            let count = self.0.read(&mut part)?;
            ensure!(count > 0 && answer.len() < ANSWER_BYTES_MAX, "the answer breaks off");
            answer.extend_from_slice(part.get(..count).unwrap_or_default());
            let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(head) = head {
                let millis = begun.elapsed().as_secs_f64() * 1000.0;
                ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
                if answer.len() >= head + 4 + 200 {
                    return Ok(millis);
                }
            }
        }
    }

    fn round(&mut self) -> Result<f64> {
        let mut times = Vec::with_capacity(LATENCY_REQUESTS);
        for _ in 0..LATENCY_REQUESTS {
            times.push(self.request()?);
        }
        Ok(median(times))
    }
}

/// Milliseconds at p50: direct, and how much more through the sidecar; each the median of all rounds.
fn latency(with: &Space, without: &Space) -> Result<(f64, f64)> {
    let (mut through, mut direct) = (Connection::to(with)?, Connection::to(without)?);
    // The first round warms both up.
    through.round()?;
    direct.round()?;
    let (mut base, mut added) = (Vec::new(), Vec::new());
    for _ in 0..LATENCY_ROUNDS {
        let plain = direct.round()?;
        added.push(through.round()? - plain);
        base.push(plain);
    }
    Ok((median(base), median(added)))
}
