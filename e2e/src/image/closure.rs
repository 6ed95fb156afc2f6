//! Dynamically linked programs of this machine, with the libraries that they load.

use super::Image;
use crate::steps::output;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// Adds a program at its own path, and every shared library that `ldd` names at the path where the loader looks for it.
pub fn add_program(image: Image, program: &Path) -> Result<Image> {
    let listing = output(Command::new("ldd").arg(program))
        .with_context(|| format!("{} is no dynamically linked program", program.display()))?;
    let mut image = image.file(&program.to_string_lossy(), program);
    for library in libraries(&listing) {
        image = image.file(&library, Path::new(&library));
    }
    Ok(image)
}

fn libraries(listing: &str) -> Vec<String> {
    let paths = listing.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        path.starts_with('/').then(|| path.split(' ').next().unwrap_or_default().to_string())
    });
    paths.collect()
}

/// Adds every file below `folder` whose path `wanted` accepts, at its own path. Links are followed; what they point to
/// in vain is left out.
pub fn add_folder(mut image: Image, folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Image> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if meta.is_dir() {
            image = add_folder(image, &path, wanted)?;
        } else if meta.is_file() && wanted(&path) {
            image = image.file(&path.to_string_lossy(), &path);
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_and_the_libraries_are_listed_and_the_kernels_page_is_not() {
        let listing = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(libraries(listing), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
