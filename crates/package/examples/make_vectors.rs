//! Writes the vectors and their index to `vectors/` at the root of the repository.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    std::fs::create_dir_all(&folder)?;
    let (files, index) = support::vectors::all();
    for (name, bytes) in &files {
        std::fs::write(folder.join(name), bytes)?;
    }
    std::fs::write(folder.join("index.txt"), support::vectors::index_text(&index))?;
    println!("{} files, {} cases", files.len(), index.len());
    Ok(())
}
