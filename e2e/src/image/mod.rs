//! One-layer container images as docker-archive files, for `ctr images import`, `docker load` and `kind load
//! image-archive`. Written here rather than by an image builder: no daemon is needed, the same input gives the same
//! bytes, and a file capability survives.

pub mod catalog;
mod closure;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// The largest archive of a product image, in bytes.
pub const PRODUCT_IMAGE_BYTES_MAX: u64 = 20_000_000;

/// CAP_NET_ADMIN in linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
/// VFS_CAP_REVISION_2 in linux/capability.h, without VFS_CAP_FLAGS_EFFECTIVE.
const VFS_CAP_REVISION_2: u32 = 0x0200_0000;
/// PAX key under which archives carry the xattr `security.capability`.
const PAX_CAPABILITY: &str = "SCHILY.xattr.security.capability";

/// The value of the xattr `security.capability` for CAP_NET_ADMIN, permitted only. With the effective bit, a container
/// without NET_ADMIN could not even start the binary.
pub fn net_admin_permitted() -> Vec<u8> {
    let words = [VFS_CAP_REVISION_2, 1 << CAP_NET_ADMIN, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What stands at one path of an image.
#[derive(Clone, Debug)]
enum Content {
    Directory,
    File(PathBuf),
    Text(String),
    Link(String),
}

#[derive(Clone, Debug)]
struct Entry {
    mode: u32,
    capability: Option<Vec<u8>>,
    content: Content,
}

/// An image to be written.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    version: String,
    entrypoint: Vec<String>,
    user: String,
    env: Vec<String>,
    /// By path without a leading slash; the order puts folders before what they hold.
    entries: BTreeMap<String, Entry>,
}

/// A written image.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Short name, as `testimony-sidecar`.
    pub name: String,
    /// `localhost/NAME:VERSION`.
    pub tag: String,
    /// `localhost/NAME:sha-...`: another content has another tag, so a Deployment that names it rolls out what is new.
    pub pinned: String,
    /// SHA-256 of the image's configuration, in hex: the image's id.
    pub digest: String,
    /// The docker-archive.
    pub path: PathBuf,
    /// Size of the archive.
    pub bytes: u64,
}

impl Archive {
    /// Repository part of the tags.
    pub fn repository(&self) -> String {
        format!("localhost/{}", self.name)
    }

    /// Tag part of [`Self::pinned`].
    pub fn pinned_tag(&self) -> &str {
        self.pinned.rsplit_once(':').map_or("", |(_, tag)| tag)
    }
}

impl Image {
    /// An image with an empty file system.
    pub fn new(name: &str, version: &str, entrypoint: &[&str]) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            entrypoint: entrypoint.iter().map(|word| (*word).to_string()).collect(),
            user: String::new(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()],
            entries: BTreeMap::new(),
        }
    }

    /// Numeric `UID:GID` under which the entry point runs.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = format!("{uid}:{gid}");
        self
    }

    /// An environment variable, `NAME=VALUE`.
    #[must_use]
    pub fn env(mut self, pair: &str) -> Self {
        self.env.push(pair.into());
        self
    }

    /// A folder that everybody may write to, as `/tmp`.
    #[must_use]
    pub fn open_folder(mut self, path: &str) -> Self {
        self.put(path, 0o1777, Content::Directory);
        self
    }

    /// A text file.
    #[must_use]
    pub fn text(mut self, path: &str, mode: u32, text: &str) -> Self {
        self.put(path, mode, Content::Text(text.into()));
        self
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.put(path, 0o777, Content::Link(target.into()));
        self
    }

    /// A file of this machine, executable where it is here.
    #[must_use]
    pub fn file(mut self, path: &str, source: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(source).map_or(0o644, |meta| meta.permissions().mode());
        self.put(path, if mode & 0o111 == 0 { 0o644 } else { 0o755 }, Content::File(source.into()));
        self
    }

    /// A file of this machine with a file capability (the bytes of `security.capability`).
    #[must_use]
    pub fn file_with_capability(mut self, path: &str, source: &Path, capability: Vec<u8>) -> Self {
        self = self.file(path, source);
        if let Some(entry) = self.entries.get_mut(path.trim_matches('/')) {
            entry.capability = Some(capability);
        }
        self
    }

    fn put(&mut self, path: &str, mode: u32, content: Content) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            let folder = Entry { mode: 0o755, capability: None, content: Content::Directory };
            self.entries.entry(path.get(..end).unwrap_or_default().to_string()).or_insert(folder);
        }
        self.entries.insert(path.to_string(), Entry { mode, capability: None, content });
    }

    /// Writes the archive into `folder`. The same image gives the same bytes.
    pub fn write(&self, folder: &Path) -> Result<Archive> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}.tar", self.name));
        let new = folder.join(format!(".{}.tar.new", self.name));
        let layer_path = folder.join(format!(".{}.layer.new", self.name));
        let layer = self.write_layer(&layer_path).with_context(|| format!("layer of {}", self.name))?;
        let config = self.config(&layer).to_string();
        let digest = hex(&Sha256::digest(config.as_bytes()));
        let tag = format!("localhost/{}:{}", self.name, self.version);
        let short: String = digest.chars().take(16).collect();
        let pinned = format!("localhost/{}:sha-{short}", self.name);
        let manifest = serde_json::json!([
            {"Config": format!("{digest}.json"), "RepoTags": [tag, pinned], "Layers": ["layer.tar"]}
        ])
        .to_string();

        let mut outer = tar::Builder::new(BufWriter::new(File::create(&new)?));
        append_bytes(&mut outer, &format!("{digest}.json"), 0o644, config.as_bytes(), None)?;
        let mut source = File::open(&layer_path)?;
        let size = source.metadata()?.len();
        append(&mut outer, "layer.tar", 0o644, size, &mut source, None)?;
        append_bytes(&mut outer, "manifest.json", 0o644, manifest.as_bytes(), None)?;
        outer.into_inner()?.flush()?;
        std::fs::remove_file(&layer_path)?;
        std::fs::rename(&new, &path)?;
        let bytes = std::fs::metadata(&path)?.len();
        Ok(Archive { name: self.name.clone(), tag, pinned, digest, path, bytes })
    }

    fn config(&self, layer_digest: &str) -> serde_json::Value {
        serde_json::json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "User": self.user, "Env": self.env},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        })
    }

    /// Writes the layer and returns its SHA-256.
    fn write_layer(&self, path: &Path) -> Result<String> {
        let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
        for (name, entry) in &self.entries {
            let capability = entry.capability.as_deref();
            match &entry.content {
                Content::Directory => {
                    let mut header = header(EntryType::Directory, entry.mode, 0);
                    tar.append_data(&mut header, format!("{name}/"), std::io::empty())?;
                }
                Content::Link(target) => {
                    tar.append_link(&mut header(EntryType::Symlink, entry.mode, 0), name, target)?;
                }
                Content::Text(text) => append_bytes(&mut tar, name, entry.mode, text.as_bytes(), capability)?,
                Content::File(source) => {
                    let file = File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
                    let size = file.metadata()?.len();
                    append(&mut tar, name, entry.mode, size, &mut BufReader::new(file), capability)?;
                }
            }
        }
        let mut file = tar.into_inner()?.into_inner()?;
        file.flush()?;
        sha256_of(path)
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    mode: u32,
    size: u64,
    source: &mut impl Read,
    capability: Option<&[u8]>,
) -> Result<()> {
    if let Some(capability) = capability {
        tar.append_pax_extensions([(PAX_CAPABILITY, capability)])?;
    }
    tar.append_data(&mut header(EntryType::Regular, mode, size), name, source.take(size))?;
    Ok(())
}

fn append_bytes<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    mode: u32,
    bytes: &[u8],
    capability: Option<&[u8]>,
) -> Result<()> {
    append(tar, name, mode, bytes.len() as u64, &mut &*bytes, capability)
}

fn sha256_of(path: &Path) -> Result<String> {
    const READ_BYTES: usize = 1 << 16;
    let mut file = File::open(path)?;
    file.rewind()?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; READ_BYTES]);
    loop {
        let read = file.read(&mut buffer)?;
        match buffer.get(..read) {
            Some([]) | None => return Ok(hex(&hash.finalize())),
            Some(bytes) => hash.update(bytes),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses a product image that has grown too large.
pub fn check_size(archive: &Archive) -> Result<()> {
    if archive.bytes > PRODUCT_IMAGE_BYTES_MAX {
        bail!("{} has {} bytes; at most {PRODUCT_IMAGE_BYTES_MAX} are allowed", archive.path.display(), archive.bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
