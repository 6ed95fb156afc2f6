//! What holds for the repository as a whole: which crate may depend on which, and that the tree is tidy.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The edges that may be, from the dependent to what it depends on.
const EDGES: [(&str, &str); 7] = [
    ("testimony-sidecar", "testimony-core"),
    ("testimony-operator", "testimony-core"),
    ("testimony-cli", "testimony-core"),
    ("testimony-cli", "testimony-operator"),
    ("testimony-e2e", "testimony-core"),
    ("testimony-e2e", "testimony-sidecar"),
    ("testimony-e2e", "testimony-operator"),
];

/// What must not stand anywhere below a crate. A name that ends in `*` is the beginning of names.
const NEVER: [(&str, &[&str]); 2] = [
    ("testimony-core", &["tokio*", "kube*", "k8s-openapi", "hyper*", "rustls*", "mio", "socket2"]),
    ("testimony-sidecar", &["kube*", "k8s-openapi"]),
];

/// How many invariants the design has: ARCHITECTURE.md tells each.
const INVARIANTS: usize = 14;

/// Most lines of a source file.
const LINES_MAX: usize = 500;

/// Folders that are made and not written.
const MADE: [&str; 5] = ["target", ".git", "corpus", "artifacts", "coverage"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the repository").to_owned()
}

fn metadata(options: &[&str]) -> Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(repository())
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(options)
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("rustc starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host").to_owned()
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

#[test]
fn crates_depend_on_each_other_one_way() {
    let metadata = metadata(&["--no-deps"]);
    let crates: BTreeSet<&str> = list(&metadata, "packages").map(|package| text(package, "name")).collect();
    let mut found = BTreeSet::new();
    for package in list(&metadata, "packages") {
        for dependency in list(package, "dependencies").map(|dependency| text(dependency, "name")) {
            if crates.contains(dependency) {
                found.insert((text(package, "name"), dependency));
            }
        }
    }
    for edge in &found {
        assert!(EDGES.contains(edge), "{} must not depend on {}", edge.0, edge.1);
    }
    assert!(found.contains(&EDGES[0]) && found.contains(&EDGES[1]), "the edges are no longer found: {found:?}");
}

#[test]
fn core_is_pure_and_the_sidecar_does_not_know_kubernetes() {
    let metadata = metadata(&["--filter-platform", &host()]);
    let names: BTreeMap<&str, &str> =
        list(&metadata, "packages").map(|package| (text(package, "id"), text(package, "name"))).collect();
    let mut below: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in list(&metadata["resolve"], "nodes") {
        // What only tests use is not part of the crate.
        let normal = |dependency: &&Value| list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null());
        below.insert(text(node, "id"), list(node, "deps").filter(normal).map(|d| text(d, "pkg")).collect());
    }
    for (name, never) in NEVER {
        let root = names.iter().find(|(_, found)| **found == name).map(|(id, _)| *id).expect("a crate of ours");
        let mut seen = BTreeSet::new();
        let mut open = vec![root];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(below.get(id).into_iter().flatten());
            }
        }
        assert!(seen.len() > 5, "{name}: the dependencies are no longer found");
        for dependency in seen.iter().filter_map(|id| names.get(id)) {
            let forbidden = never.iter().find(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => dependency.starts_with(prefix),
                None => dependency == *pattern,
            });
            assert!(forbidden.is_none(), "{name} must not depend on {dependency}, not even through others");
        }
    }
}

/// Every file of the repository with this ending; empty: every file.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![repository()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let entry = entry.expect("a directory entry");
            let (path, kind) = (entry.path(), entry.file_type().expect("a file type"));
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.is_dir() && !MADE.contains(&name.as_str()) {
                open.push(path);
            } else if kind.is_file() && name.ends_with(ending) && name != ".git" {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in {ending}");
    found
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn no_source_file_is_long_or_unfinished() {
    // In two parts, so that they do not stand in this file.
    let unfinished =
        [concat!("to", "do!("), concat!("un", "implemented!("), concat!("#[", "ignore"), concat!("db", "g!(")];
    for path in files(".rs") {
        let source = read(&path);
        let lines = source.lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines, at most {LINES_MAX}: split it", path.display());
        for word in unfinished {
            assert!(!source.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    let places = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/")];
    for path in files("") {
        let text = read(&path);
        for place in places {
            // `/proc/1/root` is the file system of a container, on every machine.
            let names = |line: &str| line.replace("/proc/1/root", "/proc/1").contains(place);
            let line = text.lines().position(names).map(|line| line + 1);
            assert!(line.is_none(), "{}:{}: {place}", path.display(), line.unwrap_or_default());
        }
    }
}

/// Names of the tests in a source file: functions with a test's attribute, and what stands in `test("NAME", FUNCTION)` where a
/// file has its own main.
fn tests(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("test(\"").and_then(|rest| rest.split('"').next()) {
            found.push(name);
        }
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let passes = line.is_empty() || line.starts_with("#[") || line.starts_with("//");
        if !passes {
            let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            found.extend(name.filter(|_| is_test).and_then(|rest| rest.split('(').next()));
            is_test = false;
        }
    }
    found
}

#[test]
fn names_of_tests_are_found_and_those_of_helpers_are_not() {
    let source = "fn helper() {}\n#[test]\nfn one() {\n    fn inner() {}\n}\n\n#[tokio::test(start_paused = true)]\n\
                  /// Why.\nasync fn two() {}\nasync fn other() {}\n    #[test]\n    #[should_panic]\n    fn three(\n        \
                  x: u8) {\n    test(\"four\", body),\n#[cfg(test)]\nfn last() {}\n";
    assert_eq!(tests(source), ["one", "two", "three", "four"]);
}

/// Of the part of ARCHITECTURE.md with this heading, the first cells of its first table.
fn first_cells(heading: &str) -> Vec<String> {
    let page = read(&repository().join("ARCHITECTURE.md"));
    let part = page.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("no part {heading}"));
    let part = part.split("\n#").next().unwrap_or_default();
    let cells = part.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.filter(|cell| *cell != "id").map(str::to_owned).collect()
}

#[test]
fn every_invariant_is_named_by_a_test() {
    let invariants = first_cells("## Invariants");
    let all: BTreeSet<&String> = invariants.iter().collect();
    assert_eq!((invariants.len(), all.len()), (INVARIANTS, INVARIANTS), "{invariants:?}");
    let sources: Vec<String> = files(".rs").iter().map(|path| read(path)).collect();
    let tests: Vec<String> = sources.iter().flat_map(|source| tests(source)).map(|name| format!("_{name}")).collect();
    for id in invariants {
        let named = format!("_{}_", id.to_lowercase().replace('-', "_"));
        assert!(tests.iter().any(|test| test.contains(&named)), "no test is named {}...", &named[1..]);
    }
}

/// `t1` to `t5` of `T1-T5`.
fn ids(cell: &str) -> Vec<String> {
    let (first, last) = cell.split_once('-').unwrap_or((cell, cell));
    let parts = |id: &str| {
        let (letter, number) = id.split_at(1);
        (letter.to_lowercase(), number.parse::<u32>().unwrap_or_else(|_| panic!("{cell} is no rule")))
    };
    let ((letter, from), (other, to)) = (parts(first), parts(last));
    assert!(letter == other && from <= to, "{cell} is no range of rules");
    (from..=to).map(|number| format!("{letter}{number}")).collect()
}

#[test]
fn every_rule_of_the_record_is_named_by_a_test() {
    let rules: Vec<String> = first_cells("### Rules of the record").iter().flat_map(|cell| ids(cell)).collect();
    assert!(rules.len() >= 37 && rules.iter().any(|rule| rule == "t5"), "rules are no longer found: {rules:?}");
    let sources: Vec<String> = files(".rs").iter().map(|path| read(path)).collect();
    // The ids are the first words of a name, one or several.
    let named: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| tests(source))
        .flat_map(|name| name.split('_').take_while(|word| word.len() <= 2))
        .collect();
    for rule in &rules {
        assert!(named.contains(rule.as_str()), "no test is named {rule}_...");
    }
}

#[test]
fn every_source_file_belongs_to_a_crate() {
    let metadata = metadata(&["--no-deps"]);
    let mut reached = BTreeSet::new();
    for target in list(&metadata, "packages").flat_map(|package| list(package, "targets")) {
        let root = PathBuf::from(text(target, "src_path"));
        let folder = root.parent().expect("a folder").to_owned();
        reach(&root, &folder, &mut reached);
    }
    assert!(reached.len() > 100, "modules are no longer found: {reached:?}");
    for path in files(".rs") {
        // The fuzz targets are workspaces of their own.
        let own = ["core/fuzz", "sidecar/fuzz"].iter().any(|fuzz| path.strip_prefix(repository().join(fuzz)).is_ok());
        assert!(own || reached.contains(&path), "{}: no `mod` leads to it, so nobody compiles it", path.display());
    }
}

/// Follows `mod name;` from a file whose modules stand in `folder`.
fn reach(file: &Path, folder: &Path, reached: &mut BTreeSet<PathBuf>) {
    if !reached.insert(file.to_owned()) {
        return;
    }
    let mut given: Option<String> = None;
    for line in read(file).lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            given = Some(path.to_owned());
        }
        let declared = line
            .strip_suffix(';')
            .and_then(|line| line.split_once("mod "))
            .filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
        let Some((_, name)) = declared else { continue };
        let beside = given.take().map(|path| file.parent().expect("a folder").join(path));
        let places = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
        let Some(child) = beside.into_iter().chain(places).find(|place| place.is_file()) else {
            panic!("{}: there is no file for mod {name}", file.display());
        };
        let child = child.canonicalize().expect("it exists");
        let below = match child.file_name().is_some_and(|name| name == "mod.rs") {
            true => child.parent().expect("a folder").to_owned(),
            false => child.with_extension(""),
        };
        reach(&child, &below, reached);
    }
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let mut links = 0;
    for page in files(".md") {
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || link.contains("://") {
                continue;
            }
            let target = page.parent().expect("a folder").join(path);
            assert!(target.exists(), "{}: {link} does not exist", page.display());
            links += 1;
        }
    }
    assert!(links > 10, "links are no longer found");
}

#[test]
fn the_map_of_the_code_is_whole() {
    let map = read(&repository().join("ARCHITECTURE.md"));
    for name in ["core", "sidecar", "operator", "cli", "e2e"] {
        let part = map.split(&format!("\n### `{name}/`")).nth(1).unwrap_or_else(|| panic!("no part on {name}"));
        let part = part.split("\n##").next().unwrap_or_default();
        let root = read(&repository().join(name).join("src/lib.rs"));
        for module in root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
            assert!(part.contains(&format!("`{module}`")), "ARCHITECTURE.md, {name}: no word on module {module}");
        }
    }
}
