//! Tensors in files: `.npy`, `.npz` and serialised `TensorProto` (`.pb`).
//!
//! Readers take any bytes and answer with a tensor or a named error; sizes are checked before memory is asked for.
//! Files appear by rename, so a crash leaves the old file or none.

use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;

use bytes::Bytes;

use cordon_graph::{ElemType, Tensor, read_tensor, write_tensor};

use crate::ExecutorError;

/// Largest tensor that an archive may expand to: 16 GiB.
const LIMIT: u64 = 16 << 30;

/// Reads every tensor of a `.npy`, `.npz` or `.pb` file with its name; a `.npy` has none, so the name is empty.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>, ExecutorError> {
    let bytes = std::fs::read(path).map_err(|source| ExecutorError::Io { path: path.into(), source })?;
    let tensors = match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => npy(bytes.into()).map(|t| vec![(String::new(), t)]),
        Some("npz") => npz(&bytes),
        Some("pb") => read_tensor(bytes.into()).map(|named| vec![named]).map_err(ExecutorError::from),
        _ => Err(ExecutorError::Unsupported("tensor files end in .npy, .npz or .pb".into())),
    };
    tensors.map_err(|e| match e {
        ExecutorError::Malformed(what) => ExecutorError::Malformed(format!("{}: {what}", path.display())),
        ExecutorError::Unsupported(what) => ExecutorError::Unsupported(format!("{}: {what}", path.display())),
        other => other,
    })
}

/// Writes tensors as the extension says: `.npz` takes any number, `.npy` and `.pb` exactly one.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), ExecutorError> {
    let bytes = match (path.extension().and_then(|e| e.to_str()), tensors) {
        (Some("npy"), [(_, tensor)]) => to_npy(tensor)?,
        (Some("pb"), [(name, tensor)]) => write_tensor(name, tensor),
        (Some("npz"), _) => to_npz(tensors)?,
        (Some("npy" | "pb"), _) => {
            return Err(ExecutorError::Misuse(format!(
                "{} holds one tensor and there are {}: a .npz holds any number",
                path.display(),
                tensors.len()
            )));
        }
        _ => return Err(ExecutorError::Unsupported("tensor files end in .npy, .npz or .pb".into())),
    };
    let io = |source| ExecutorError::Io { path: path.into(), source };
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path)).map_err(|source| {
        // The rename did not happen, so the partial file is ours to remove; a second failure adds nothing.
        let _ = std::fs::remove_file(&partial);
        io(source)
    })
}

/// Reads one `.npy` array, versions 1 to 3 of the format.
pub fn npy(file: Bytes) -> Result<Tensor, ExecutorError> {
    let bad = |what: &str| ExecutorError::Malformed(format!("not a .npy file: {what}"));
    let rest = file.strip_prefix(b"\x93NUMPY".as_slice()).ok_or_else(|| bad("wrong magic"))?;
    let (length, width) = match rest {
        [1, _, a, b, ..] => (u32::from(u16::from_le_bytes([*a, *b])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]), 6),
        [1..=3, ..] => return Err(bad("it ends inside its header")),
        _ => return Err(bad("unknown version")),
    };
    let start = 6 + width;
    let end = usize::try_from(length).ok().and_then(|n| n.checked_add(start)).ok_or_else(|| bad("header length"))?;
    let header = file.get(start..end).ok_or_else(|| bad("it ends inside its header"))?;
    let header = core::str::from_utf8(header).map_err(|_| bad("the header is no text"))?;

    let descr = quoted(after(header, "'descr':").ok_or_else(|| bad("no 'descr'"))?)
        .ok_or_else(|| ExecutorError::Unsupported("structured .npy arrays".into()))?;
    let fortran = after(header, "'fortran_order':").ok_or_else(|| bad("no 'fortran_order'"))?.starts_with("True");
    let dims = after(header, "'shape':").and_then(shape).ok_or_else(|| bad("no valid 'shape'"))?;
    let (elem, big_endian) = element_type(descr)?;
    let tensor = Tensor::new(elem, dims, file.slice(end..))?;
    let tensor = if big_endian { swap_bytes(&tensor) } else { tensor };
    Ok(if fortran { to_row_major(&tensor) } else { tensor })
}

/// What follows a key of the header's dictionary, without leading blanks.
fn after<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    header.split_once(key).map(|(_, rest)| rest.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.split_once('\'').map(|(inside, _)| inside)
}

fn shape(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    let dims: Vec<usize> =
        inside.split(',').map(str::trim).filter(|d| !d.is_empty()).map(|d| d.parse().ok()).collect::<Option<_>>()?;
    Some(dims)
}

/// The element type of a NumPy type string and whether its bytes are big-endian.
fn element_type(descr: &str) -> Result<(ElemType, bool), ExecutorError> {
    let (order, kind) = descr.split_at_checked(1).unwrap_or(("", descr));
    let elem = match kind {
        "f4" => ElemType::Float,
        "f8" => ElemType::Double,
        "f2" => ElemType::Float16,
        "i1" => ElemType::Int8,
        "i2" => ElemType::Int16,
        "i4" => ElemType::Int32,
        "i8" => ElemType::Int64,
        "u1" => ElemType::Uint8,
        "u2" => ElemType::Uint16,
        "u4" => ElemType::Uint32,
        "u8" => ElemType::Uint64,
        "b1" => ElemType::Bool,
        _ => {
            return Err(ExecutorError::Unsupported(format!("NumPy type '{descr}'")));
        }
    };
    match order {
        "<" | "|" | "=" => Ok((elem, false)),
        ">" => Ok((elem, true)),
        _ => Err(ExecutorError::Unsupported(format!("NumPy byte order in '{descr}'"))),
    }
}

fn swap_bytes(tensor: &Tensor) -> Tensor {
    let size = tensor.elem.crossing_bytes().map_or(1, usize::from);
    let data = tensor.data.chunks_exact(size).flat_map(|element| element.iter().rev().copied()).collect();
    Tensor { data, ..tensor.clone() }
}

/// Reorders column-major elements, NumPy's "Fortran order".
fn to_row_major(tensor: &Tensor) -> Tensor {
    let size = tensor.elem.crossing_bytes().map_or(1, usize::from);
    let strides: Vec<usize> =
        tensor.dims.iter().scan(1, |stride, d| Some(core::mem::replace(stride, *stride * d))).collect();
    let mut data = Vec::with_capacity(tensor.data.len());
    let mut index = vec![0usize; tensor.dims.len()];
    for _ in 0..tensor.elements() {
        let at = index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>() * size;
        data.extend_from_slice(&tensor.data[at..at + size]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < tensor.dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Tensor { data: data.into(), ..tensor.clone() }
}

/// Serialises a tensor as `.npy` version 1.
pub fn to_npy(tensor: &Tensor) -> Result<Vec<u8>, ExecutorError> {
    let kind = match tensor.elem {
        ElemType::Float => "<f4",
        ElemType::Double => "<f8",
        ElemType::Float16 => "<f2",
        ElemType::Int8 => "|i1",
        ElemType::Int16 => "<i2",
        ElemType::Int32 => "<i4",
        ElemType::Int64 => "<i8",
        ElemType::Uint8 => "|u1",
        ElemType::Uint16 => "<u2",
        ElemType::Uint32 => "<u4",
        ElemType::Uint64 => "<u8",
        ElemType::Bool => "|b1",
        other => {
            return Err(ExecutorError::Unsupported(format!("NumPy has no {other}")));
        }
    };
    let dims = tensor.dims.iter().map(|d| format!("{d},")).collect::<String>();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({dims}), }}");
    // The format asks that the data start on a multiple of 64; magic, version and length take 10 bytes.
    let padding = (64 - (10 + header.len() + 1) % 64) % 64;
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    let length = u16::try_from(header.len())
        .map_err(|_| ExecutorError::Unsupported(format!("a .npy file of {} dimensions", tensor.dims.len())))?;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&tensor.data);
    Ok(out)
}

/// Reads every array of a `.npz` archive.
pub fn npz(file: &[u8]) -> Result<Vec<(String, Tensor)>, ExecutorError> {
    let bad = |e: &dyn core::fmt::Display| ExecutorError::Malformed(format!("not a .npz file: {e}"));
    let mut archive = zip::ZipArchive::new(Cursor::new(file)).map_err(|e| bad(&e))?;
    let mut tensors = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| bad(&e))?;
        let file_name = entry.name().map_err(|e| bad(&e))?.into_owned();
        let name = file_name.strip_suffix(".npy").unwrap_or(&file_name).to_owned();
        // A deflated entry may claim or expand to anything; it is read up to the limit whatever it claims.
        let mut bytes = Vec::new();
        entry.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|e| bad(&e))?;
        if bytes.len() as u64 > LIMIT {
            return Err(ExecutorError::Unsupported(format!("array `{name}` expands to more than {LIMIT} bytes")));
        }
        tensors.push((name, npy(bytes.into())?));
    }
    Ok(tensors)
}

/// Serialises tensors as a `.npz` archive, stored without compression as NumPy's `savez` does.
pub fn to_npz(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, ExecutorError> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, tensor) in tensors {
        let bytes = to_npy(tensor)?;
        add(&mut archive, &format!("{name}.npy"), &bytes)
            .map_err(|e| ExecutorError::Misuse(format!("array `{name}`: {e}")))?;
    }
    let file = archive.finish().map_err(|e| ExecutorError::Misuse(e.to_string()))?;
    Ok(file.into_inner())
}

fn add(archive: &mut zip::ZipWriter<impl Write + Seek>, name: &str, bytes: &[u8]) -> zip::result::ZipResult<()> {
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(bytes.len() > u32::MAX as usize);
    archive.start_file(name, options)?;
    archive.write_all(bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Tensor {
        Tensor::from_f32(vec![2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).expect("six values")
    }

    #[test]
    fn every_format_round_trips_through_a_file() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let scalar = Tensor::from_i64(vec![], &[-3]).expect("a scalar");
        for (name, tensors) in [
            ("a.npy", vec![(String::new(), ramp())]),
            ("b.pb", vec![("x".to_owned(), scalar.clone())]),
            ("c.npz", vec![("x".to_owned(), ramp()), ("mask".to_owned(), scalar)]),
        ] {
            let path = dir.path().join(name);
            write(&path, &tensors).expect("writable");
            assert_eq!(read(&path).expect("own output"), tensors, "{name}");
        }
        let two = [(String::from("x"), ramp()), (String::from("y"), ramp())];
        assert!(write(&dir.path().join("d.npy"), &two).expect_err("one per .npy").to_string().contains(".npz"));
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 3, "nothing half-written is left");
    }

    #[test]
    fn column_major_and_big_endian_arrays_are_put_in_order() {
        let column_major = |descr: &str, data: Vec<u8>| {
            let header = format!("{{'descr': '{descr}', 'fortran_order': True, 'shape': (2, 3), }}\n");
            let mut file = b"\x93NUMPY\x01\x00".to_vec();
            file.extend_from_slice(&u16::try_from(header.len()).expect("short").to_le_bytes());
            file.extend_from_slice(header.as_bytes());
            file.extend_from_slice(&data);
            npy(file.into()).expect("valid")
        };
        let columns = [0.0f32, 3.0, 1.0, 4.0, 2.0, 5.0];
        assert_eq!(column_major("<f4", columns.iter().flat_map(|v| v.to_le_bytes()).collect()), ramp());
        assert_eq!(column_major(">f4", columns.iter().flat_map(|v| v.to_be_bytes()).collect()), ramp());
    }

    #[test]
    fn damaged_files_are_errors() {
        let good = to_npy(&ramp()).expect("float");
        assert_eq!((good.len() - 24) % 64, 0, "data is aligned");
        for end in 0..good.len() {
            assert!(npy(Bytes::copy_from_slice(&good[..end])).is_err(), "cut at {end}");
        }
        let text = String::from_utf8_lossy(&good).into_owned();
        let huge = text.replace("(2,3,)", "(99999999999,99999999999,99999)").into_bytes();
        assert!(npy(huge.into()).is_err());
        let archive = to_npz(&[("x".to_owned(), ramp())]).expect("float");
        for end in 0..archive.len() {
            assert!(npz(&archive[..end]).is_err(), "cut at {end}");
        }
        assert!(npz(b"PK").is_err());
    }
}
