//! Writes the vectors that only an enclave can refuse, and their list, to `vectors/` at the root of the repository.

#[path = "../tests/support/vectors.rs"]
mod vectors;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    let files = vectors::all();
    for (name, _, bytes) in &files {
        std::fs::write(folder.join(name), bytes)?;
    }
    std::fs::write(folder.join("programs.txt"), vectors::list())?;
    println!("{} files", files.len());
    Ok(())
}
