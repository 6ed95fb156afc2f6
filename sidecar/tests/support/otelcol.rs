//! A real OpenTelemetry Collector.
//!
//! Needs the one that `cargo xtask test` builds: `$OTELCOL`, else `bin/otelcol` in `$TESTIMONY_CACHE_DIR` or
//! `~/.cache/testimony`.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// It listens within this.
const START_MAX: Duration = Duration::from_secs(60);

/// A Collector that runs. Dropping it kills it.
pub struct Otelcol(Child);

impl Otelcol {
    /// Starts it with these files, of which the later ones stand over the earlier ones, and waits until it listens there. What
    /// it says is appended to `log`.
    pub fn start(configs: &[&Path], listens: &[SocketAddr], log: &Path) -> Self {
        let output = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(program());
        for config in configs {
            command.arg("--config").arg(config);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn();
        let mut collector = Self(child.expect("the Collector starts"));
        let end = Instant::now() + START_MAX;
        for address in listens {
            while TcpStream::connect(address).is_err() {
                let said = || std::fs::read_to_string(log).unwrap_or_default();
                assert!(collector.0.try_wait().expect("wait").is_none(), "it ended at once: {}", said());
                assert!(Instant::now() < end, "nothing listens on {address}: {}", said());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        collector
    }
}

impl Drop for Otelcol {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let program = variable("OTELCOL").unwrap_or_else(|| {
        let cache = variable("TESTIMONY_CACHE_DIR")
            .unwrap_or_else(|| variable("HOME").expect("HOME is set").join(".cache/testimony"));
        cache.join("bin/otelcol")
    });
    assert!(
        program.is_file(),
        "the Collector is missing at {}: `cargo xtask test` builds it, or set OTELCOL to the path of one",
        program.display()
    );
    program
}
