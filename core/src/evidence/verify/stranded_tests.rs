//! Records that nothing proves, because of what is missing next to them: they say nothing (V3, V4).

use super::tamper_tests::honest;
use super::testing::*;
use super::*;

fn partial(bodies: &[String]) -> (u64, Vec<String>) {
    let report = verify(bodies, Settings { partial: true, ..settings() }, Trust::default());
    (report.proved, found(&report))
}

/// A record that claims place 4 of this stream.
fn pushed(writer: &Writer, typ: &str, more: &[(&str, &str)]) -> String {
    let mut forger = Writer::new(writer.sid.clone(), 1, &[]);
    (0..3).for_each(|_| forger.exchange("/forged"));
    forger.record(typ, more);
    forger.bodies.remove(4)
}

#[test]
fn v4_what_nothing_proves_says_nothing() {
    let writer = honest("p", 1);
    let mut other = Writer::new(sid("p", 7), 7, &[]);
    (0..8).for_each(|_| other.exchange("/a"));
    other.gap(1);
    other.close();
    // Of a filtered export, in which nothing but 4 stands between 2 and 6.
    let mut bodies = [writer.all(), other.all()].concat();
    bodies.drain(3..6);
    let (proved, told) = partial(&bodies);
    let gaps = |told: &[String]| told.iter().filter(|told| told.starts_with("GAP")).count();
    assert_eq!(gaps(&told), 2, "{told:?}");
    let (about, root) = (other.sid.to_string(), "ab".repeat(32));
    let recovered = [("rec_sid", about.as_str()), ("size", "3"), ("root", &root), ("state", "lost")];
    let beyond = [&recovered[..], &[("head_size", "9")]].concat();
    let hole = [("hole_sid", about.as_str()), ("hole_from", "7"), ("hole_to", "8"), ("nodes", &root)];
    let hole = [&hole[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat();
    let totals = [("begun", "9"), ("exchanges", "3"), ("close_reason", "sigterm")];
    let forged: [(&str, &[(&str, &str)]); 6] = [
        ("recovered", &recovered),
        ("recovered", &beyond),
        ("hole", &hole),
        ("close", &totals),
        ("checkpoint", &totals[..2]),
        ("gap", &[("count", "4"), ("exact", "1"), ("gap_reason", "forged")]),
    ];
    for (typ, more) in forged {
        let (still, told) = partial(&[&bodies[..], &[pushed(&writer, typ, more)]].concat());
        let wrong = |told: &String| ["FORK", "TAMPERED", "MISSING"].iter().any(|verdict| told.starts_with(verdict));
        assert!(!told.iter().any(wrong), "{typ}: {told:?}");
        assert!(told.contains(&"FOREIGN 4..5".to_owned()), "{typ}: {told:?}");
        assert_eq!((still, gaps(&told)), (proved, 2), "{typ}: {told:?}");
    }
}

#[test]
fn g2_v4_a_hole_that_nothing_proves_excuses_nothing() {
    let writer = honest("p", 1);
    let (own, node) = (writer.sid.to_string(), writer.leaves[12].to_hex());
    let hole = [("hole_sid", own.as_str()), ("hole_from", "12"), ("hole_to", "13"), ("nodes", &node)];
    let hole = pushed(&writer, "hole", &[&hole[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat());
    let mut bodies = writer.all();
    bodies.remove(12);
    bodies.drain(3..6);
    bodies.push(hole);
    let told = found(&verify(&bodies, settings(), Trust::default()));
    assert!(told.contains(&"MISSING 12..13".to_owned()) && !told.contains(&"GAP 12..13".to_owned()), "{told:?}");
}
