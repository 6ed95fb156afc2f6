//! The images: two products, the backend, the shop, and what the tests talk to.

use super::closure::{add_folder, add_program};
use super::{Archive, Image, check_size, net_admin_permitted};
use crate::paths::{Paths, repo};
use crate::steps::{Log, output};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of the product images: the workspace's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
const FIXTURE_VERSION: &str = "1";
/// The target triple whose C library can be linked statically.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";
/// Static, still position-independent; relocations in the packed form, which takes half a megabyte less.
const STATIC_FLAGS: &str = "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs";
/// The operator ends at a panic (its profile says so), so it needs no tables for unwinding: two megabytes less.
const OPERATOR_FLAGS: &str =
    "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C force-unwind-tables=no";
/// As the sidecar's contract with the operator names them.
const SIDECAR_UID_GID: (u32, u32) = (62819, 62820);
const NOBODY: u32 = 65532;
const POSTGRES_UID: u32 = 999;
const POSTGRES: &str = "/usr/lib/postgresql/15";
const POSTGRES_SHARE: &str = "/usr/share/postgresql/15";

/// Builds one product, static, and returns the folder of its binary.
fn built(package: &str, profile: &str, flags: &str, log: &Log) -> Result<PathBuf> {
    log.set_note(format!("cargo build -p {package}"));
    let repo = repo();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), PathBuf::from);
    log.run(Command::new("cargo").current_dir(&repo).env("RUSTFLAGS", flags).args([
        "build",
        "--locked",
        "--profile",
        profile,
        "--target",
        STATIC_TARGET,
        "-p",
        package,
    ]))?;
    log.set_note("");
    Ok(target.join(STATIC_TARGET).join(profile))
}

/// The images of the sidecar, the operator and the command line.
pub fn products(folder: &Path, log: &Log) -> Result<Vec<Archive>> {
    let sidecar = built("testimony-sidecar", "release", STATIC_FLAGS, log)?.join("testimony-sidecar");
    let operator = built("testimony-operator", "operator", OPERATOR_FLAGS, log)?.join("testimony-operator");
    // As the operator, whose library it holds: most of it is built already.
    let cli = built("testimony-cli", "operator", OPERATOR_FLAGS, log)?.join("testimony");
    let (uid, gid) = SIDECAR_UID_GID;
    let sidecar = Image::new("testimony-sidecar", VERSION, &["/testimony-sidecar"])
        .user(uid, gid)
        .file_with_capability("/testimony-sidecar", &sidecar, net_admin_permitted());
    let operator = Image::new("testimony-operator", VERSION, &["/testimony-operator"])
        .user(NOBODY, NOBODY)
        .file("/testimony-operator", &operator);
    let cli = Image::new("testimony-cli", VERSION, &["/testimony"]).user(NOBODY, NOBODY).file("/testimony", &cli);
    let archives = vec![sidecar.write(folder)?, operator.write(folder)?, cli.write(folder)?];
    archives.iter().try_for_each(check_size)?;
    Ok(archives)
}

/// The image that holds a pod's namespaces; named in containerd's configuration.
pub fn pause(paths: &Paths, log: &Log) -> Result<Archive> {
    let binary = paths.bin().join("pause");
    let source = paths.bin().join(".pause.c");
    std::fs::write(&source, include_str!("../../assets/pause.c"))?;
    log.run(Command::new("gcc").args(["-static", "-Os", "-s", "-o"]).arg(&binary).arg(&source))?;
    Image::new("pause", FIXTURE_VERSION, &["/pause"])
        .user(NOBODY, NOBODY)
        .file("/pause", &binary)
        .write(&paths.images())
}

/// The cluster's name server.
pub fn coredns(paths: &Paths, _log: &Log) -> Result<Archive> {
    let image = Image::new("coredns", "1.12.4", &["/coredns"]).file("/coredns", &paths.program("coredns"));
    image.write(&paths.images())
}

/// The OpenTelemetry Collector, with a shell's tools to read its file.
pub fn collector(paths: &Paths) -> Result<Archive> {
    let image = Image::new("otelcol", FIXTURE_VERSION, &["/otelcol"]).user(NOBODY, NOBODY);
    with_busybox(image.file("/otelcol", &paths.program("otelcol")))?.write(&paths.images())
}

/// One static Go program as an image of its own.
fn go_program(paths: &Paths, name: &str, image: Image) -> Result<Archive> {
    let path = format!("/{name}");
    image.user(NOBODY, NOBODY).open_folder("/tmp").file(&path, &paths.program(name)).write(&paths.images())
}

/// The shop's four services in one program.
pub fn shop(paths: &Paths, log: &Log) -> Result<Archive> {
    let out = paths.program("shop");
    log.run(
        Command::new("go")
            .current_dir(repo().join("e2e/shop"))
            .env("CGO_ENABLED", "0")
            .args(["build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(&out)
            .arg("."),
    )?;
    go_program(paths, "shop", Image::new("shop", FIXTURE_VERSION, &["/shop"]))
}

/// What the cluster tests talk to besides the shop.
pub fn fixtures(paths: &Paths) -> Result<Vec<Archive>> {
    let httpbin = go_program(paths, "go-httpbin", Image::new("go-httpbin", FIXTURE_VERSION, &["/go-httpbin"]))?;
    let interop = Image::new("grpc-interop", FIXTURE_VERSION, &["/grpc-interop-server"])
        .file("/grpc-interop-client", &paths.program("grpc-interop-client"));
    let interop = go_program(paths, "grpc-interop-server", interop)?;
    // Speaks gRPC with the health service, HTTP/1.1 and h2c, and measures latency.
    let fortio = go_program(paths, "fortio", Image::new("fortio", FIXTURE_VERSION, &["/fortio"]))?;
    let h2spec = Image::new("h2spec", FIXTURE_VERSION, &["/bin/sleep", "2147483647"]).user(NOBODY, NOBODY);
    let h2spec = with_busybox(h2spec)?.file("/h2spec", &paths.program("h2spec")).write(&paths.images())?;
    Ok(vec![httpbin, interop, fortio, h2spec])
}

/// A client: a shell, curl and psql.
pub fn toolbox(paths: &Paths) -> Result<Archive> {
    let image = Image::new("toolbox", FIXTURE_VERSION, &["/bin/sleep", "2147483647"])
        .user(NOBODY, NOBODY)
        .env("HOME=/tmp")
        .open_folder("/tmp")
        .text("/etc/passwd", 0o644, &passwd("toolbox", NOBODY))
        .text("/etc/group", 0o644, &group("toolbox", NOBODY));
    let image = add_program(with_busybox(image)?, Path::new("/usr/bin/curl"))?;
    let psql = format!("{POSTGRES}/bin/psql");
    add_program(image, Path::new(&psql))?.link("/usr/bin/psql", &psql).write(&paths.images())
}

/// A real PostgreSQL that makes its database at the first start.
pub fn postgres(paths: &Paths) -> Result<Archive> {
    let mut image = Image::new("postgres", FIXTURE_VERSION, &["/entrypoint"])
        .user(POSTGRES_UID, POSTGRES_UID)
        .env(&format!("PATH={POSTGRES}/bin:/usr/bin:/bin"))
        .env("TZ=UTC")
        .open_folder("/tmp")
        .open_folder("/data")
        .text("/etc/passwd", 0o644, &passwd("postgres", POSTGRES_UID))
        .text("/etc/group", 0o644, &group("postgres", POSTGRES_UID))
        .text("/entrypoint", 0o755, include_str!("../../assets/postgres-entrypoint.sh"));
    image = with_busybox(image)?;
    for program in ["postgres", "initdb", "pg_isready", "psql"] {
        image = add_program(image, &Path::new(POSTGRES).join("bin").join(program))?;
    }
    for library in ["plpgsql.so", "dict_snowball.so"] {
        image = add_program(image, &Path::new(POSTGRES).join("lib").join(library))?;
    }
    let share =
        |path: &Path| !path.components().any(|part| part.as_os_str() == "extension" || part.as_os_str() == "man");
    image = add_folder(image, Path::new(POSTGRES_SHARE), &share)?;
    let extension = Path::new(POSTGRES_SHARE).join("extension");
    image = add_folder(image, &extension, &|path| path.to_string_lossy().contains("plpgsql"))?;
    let zone = Path::new("/usr/share/zoneinfo/UTC");
    let zone = if zone.exists() { zone } else { Path::new("/usr/share/zoneinfo/Etc/UTC") };
    image.file("/usr/share/zoneinfo/UTC", zone).write(&paths.images())
}

fn passwd(name: &str, id: u32) -> String {
    format!("root:x:0:0::/:/bin/sh\n{name}:x:{id}:{id}::/tmp:/bin/sh\n")
}

fn group(name: &str, id: u32) -> String {
    format!("root:x:0:\n{name}:x:{id}:\n")
}

/// A static busybox with all its tools by name, as far as no other program has taken it.
fn with_busybox(mut image: Image) -> Result<Image> {
    let busybox = Path::new("/bin/busybox");
    let list = output(Command::new(busybox).arg("--list")).context("busybox of the Debian package busybox-static")?;
    image = image.file("/bin/busybox", busybox);
    for tool in list.lines().map(str::trim).filter(|tool| !tool.is_empty() && *tool != "busybox") {
        image = image.link(&format!("/bin/{tool}"), "/bin/busybox");
    }
    Ok(image)
}
