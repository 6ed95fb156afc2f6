use super::*;

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("testimony-image-{name}-{}", std::process::id()))
}

fn sample() -> Result<Image> {
    let source = std::env::current_exe()?;
    Ok(Image::new("sample", "1.2.3", &["/opt/x"])
        .user(7, 8)
        .open_folder("/tmp")
        .text("/etc/passwd", 0o644, "u:x:7:8::/:/\n")
        .link("/bin/sh", "/opt/x")
        .file_with_capability("/opt/x", &source, net_admin_permitted()))
}

/// Name, mode and PAX records of an entry.
type LayerEntry = (String, u32, Vec<(String, Vec<u8>)>);

fn layer_entries(archive: &Archive) -> Result<Vec<LayerEntry>> {
    let mut outer = tar::Archive::new(File::open(&archive.path)?);
    let mut layer = Vec::new();
    for entry in outer.entries()? {
        let mut entry = entry?;
        if entry.path()?.ends_with("layer.tar") {
            entry.read_to_end(&mut layer)?;
        }
    }
    let mut found = Vec::new();
    for entry in tar::Archive::new(layer.as_slice()).entries()? {
        let mut entry = entry?;
        let mut records = Vec::new();
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            records.push((record.key()?.to_string(), record.value_bytes().to_vec()));
        }
        found.push((entry.path()?.display().to_string(), entry.header().mode()?, records));
    }
    Ok(found)
}

#[test]
fn the_layer_holds_every_entry_and_the_file_capability() -> Result<()> {
    let folder = folder("layer");
    let archive = sample()?.write(&folder)?;
    let entries = layer_entries(&archive)?;
    let names: Vec<&str> = entries.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["bin/", "bin/sh", "etc/", "etc/passwd", "opt/", "opt/x", "tmp/"]);
    for (name, mode, records) in &entries {
        let wanted: &[(String, Vec<u8>)] = if name == "opt/x" {
            assert_eq!(*mode, 0o755);
            // As `setcap cap_net_admin+p` writes it: revision 2, no effective bit, bit 12 permitted, nothing inheritable.
            &[(PAX_CAPABILITY.into(), vec![0, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]
        } else {
            &[]
        };
        assert_eq!(records, wanted, "{name}");
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[test]
fn the_same_image_has_the_same_digest_and_another_has_another() -> Result<()> {
    let folder = folder("digest");
    let first = sample()?.write(&folder)?;
    let again = sample()?.write(&folder)?;
    let other = sample()?.env("A=1").write(&folder)?;
    assert_eq!(first.digest, again.digest);
    assert_ne!(first.pinned, other.pinned);
    assert_eq!(first.tag, "localhost/sample:1.2.3");
    assert_eq!(first.pinned, format!("{}:{}", first.repository(), first.pinned_tag()));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[test]
fn the_manifest_names_configuration_layer_and_both_tags() -> Result<()> {
    let folder = folder("manifest");
    let archive = sample()?.write(&folder)?;
    let mut texts = BTreeMap::new();
    for entry in tar::Archive::new(File::open(&archive.path)?).entries()? {
        let mut entry = entry?;
        let (name, mut bytes) = (entry.path()?.display().to_string(), Vec::new());
        entry.read_to_end(&mut bytes)?;
        texts.insert(name, bytes);
    }
    let read = |name: &str| -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(texts.get(name).context(name.to_string())?)?)
    };
    let manifest = read("manifest.json")?;
    assert_eq!(manifest.pointer("/0/RepoTags"), Some(&serde_json::json!([archive.tag, archive.pinned])));
    let config = read(&format!("{}.json", archive.digest))?;
    assert_eq!(config.pointer("/config/User"), Some(&serde_json::json!("7:8")));
    let layer = texts.get("layer.tar").context("layer.tar")?;
    let digest = format!("sha256:{}", hex(&Sha256::digest(layer)));
    assert_eq!(config.pointer("/rootfs/diff_ids/0"), Some(&serde_json::json!(digest)));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[test]
fn a_product_image_over_the_limit_is_refused() {
    let archive = |bytes| Archive {
        name: "x".into(),
        tag: String::new(),
        pinned: String::new(),
        digest: String::new(),
        path: "x.tar".into(),
        bytes,
    };
    assert!(check_size(&archive(PRODUCT_IMAGE_BYTES_MAX)).is_ok());
    assert!(check_size(&archive(PRODUCT_IMAGE_BYTES_MAX + 1)).is_err());
}
