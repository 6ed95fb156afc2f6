//! What the libraries of transparency-dev say of trees, heads and proofs.

use super::*;

/// One golden stream for the Go program: bodies in order, heads with the key that must have signed each, every proof.
fn for_go(bodies: &[String]) -> Vec<Value> {
    let fields = |body: &String| -> Value { serde_json::from_str(body).expect("a body") };
    let mut sids: Vec<String> =
        bodies.iter().filter_map(|body| fields(body)["sid"].as_str().map(str::to_owned)).collect();
    sids.sort();
    sids.dedup();
    let of = |sid: &String| -> Value {
        let own: Vec<&String> = bodies.iter().filter(|body| fields(body)["sid"] == sid.as_str()).collect();
        let leaves: Vec<Hash> = own.iter().map(|body| leaf(body.as_bytes())).collect();
        let mut keys: Vec<(u64, String)> = Vec::new();
        for (at, body) in own.iter().enumerate() {
            let key = fields(body)[if at == 0 { "key" } else { "next_key" }].as_str().map(str::to_owned);
            // A ledger's own key stays; its entries name those of streams.
            let key = key.filter(|_| at == 0 || fields(body)["typ"] != "ledger-epoch");
            keys.extend(key.map(|key| (if at == 0 { 0 } else { at as u64 + 2 }, key)));
        }
        let note = |body: &String| -> Option<Value> {
            let text = String::from_utf8(STANDARD.decode(fields(body)["note"].as_str()?).ok()?).ok()?;
            let checkpoint = SignedNote::parse(&text).expect("a note").checkpoint;
            let key = keys.iter().rfind(|(from, _)| *from <= checkpoint.size).map(|(_, key)| key.clone());
            (checkpoint.origin == *sid).then(|| json!({"note": text, "key": key}))
        };
        let hashes = |proof: Vec<Hash>| -> Vec<String> { proof.iter().map(|hash| STANDARD.encode(hash.0)).collect() };
        let (mut inclusion, mut consistency) = (Vec::new(), Vec::new());
        for size in 1..=leaves.len() {
            for at in 0..size as u64 {
                let proof = prove_inclusion(&leaves[..size], at).expect("a leaf");
                inclusion.push(json!({"index": at, "size": size, "proof": hashes(proof)}));
                let proof = prove_consistency(&leaves[..size], at + 1).expect("an older size");
                consistency.push(json!({"old": at + 1, "new": size, "proof": hashes(proof)}));
            }
        }
        let heads: Vec<Value> = bodies.iter().filter_map(note).collect();
        json!({"bodies": own, "heads": heads, "inclusion": inclusion, "consistency": consistency})
    };
    sids.iter().map(of).collect()
}

#[test]
fn l1_h1_the_libraries_of_transparency_dev_agree() {
    let names = VECTORS.iter().chain(&["ledger"]);
    let streams: Vec<Value> = names.flat_map(|name| for_go(&vectors(name))).collect();
    let heads: usize = streams.iter().map(|stream| stream["heads"].as_array().map_or(0, Vec::len)).sum();
    assert!(heads >= 13, "{heads}");
    let input: String = streams.iter().map(|stream| format!("{stream}\n")).collect();
    let program: PathBuf = support::program("tlog-oracle", "TLOG_ORACLE");
    let checked: usize = run(&program, &[], &input).trim().parse().expect("a number");
    let proofs = |kind: &str| streams.iter().map(|stream| stream[kind].as_array().map_or(0, Vec::len)).sum::<usize>();
    assert_eq!(checked, heads + proofs("inclusion") + proofs("consistency"));
}
