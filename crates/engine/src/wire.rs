//! How one value becomes bytes and back. A list of fields is written once and yields both directions, so reader and
//! writer cannot disagree.

use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};

use crate::error::EngineError;

/// A value with exactly one binary encoding.
pub(crate) trait Wire: Sized {
    /// Fewest bytes an encoding takes; bounds what a hostile count can make the reader allocate.
    const MIN: usize;

    /// Appends the encoding.
    fn write(&self, w: &mut Writer);

    /// Reads one value; `what` names it in errors.
    fn read(r: &mut Reader<'_>, what: &'static str) -> Result<Self, EngineError>;

    /// Bytes that the value holds on the heap, beside itself; exact for one that was read.
    fn heap_bytes(&self) -> usize;
}

macro_rules! primitive {
    ($($type:ty, $method:ident, $bytes:literal;)*) => {$(
        impl Wire for $type {
            const MIN: usize = $bytes;

            fn write(&self, w: &mut Writer) {
                w.$method(*self);
            }

            fn read(r: &mut Reader<'_>, what: &'static str) -> Result<Self, EngineError> {
                Ok(r.$method(what)?)
            }

            fn heap_bytes(&self) -> usize {
                0
            }
        }
    )*};
}

primitive! {
    bool, bool, 1;
    u8, u8, 1;
    u32, u32, 4;
    u64, u64, 8;
    f32, f32, 4;
}

impl Wire for i32 {
    const MIN: usize = 4;

    fn write(&self, w: &mut Writer) {
        w.raw(&self.to_le_bytes());
    }

    fn read(r: &mut Reader<'_>, what: &'static str) -> Result<Self, EngineError> {
        Ok(Self::from_le_bytes(r.array(what)?))
    }

    fn heap_bytes(&self) -> usize {
        0
    }
}

impl<T: Wire> Wire for Option<T> {
    const MIN: usize = 1;

    fn write(&self, w: &mut Writer) {
        w.option(self.as_ref(), |w, v| v.write(w));
    }

    fn read(r: &mut Reader<'_>, what: &'static str) -> Result<Self, EngineError> {
        if r.bool(what)? { T::read(r, what).map(Some) } else { Ok(None) }
    }

    fn heap_bytes(&self) -> usize {
        self.iter().map(T::heap_bytes).sum()
    }
}

impl<T: Wire, const N: usize> Wire for [T; N] {
    const MIN: usize = T::MIN * N;

    fn write(&self, w: &mut Writer) {
        self.iter().for_each(|v| v.write(w));
    }

    fn read(r: &mut Reader<'_>, what: &'static str) -> Result<Self, EngineError> {
        let items = items(r, N, what)?;
        items.try_into().map_err(|_| EngineError::Bug("array length"))
    }

    fn heap_bytes(&self) -> usize {
        self.iter().map(T::heap_bytes).sum()
    }
}

/// Writes a count and the items.
pub(crate) fn write_list<T: Wire>(w: &mut Writer, items: &[T]) {
    w.count(items.len());
    items.iter().for_each(|v| v.write(w));
}

/// Reads a list of at most `max` items. The count is checked against the bytes left before memory is reserved, and the
/// reservation may fail.
pub(crate) fn read_list<T: Wire>(r: &mut Reader<'_>, max: u32, what: &'static str) -> Result<Vec<T>, EngineError> {
    let n = r.count(T::MIN, max, what)?;
    items(r, n, what)
}

/// Bytes of a list without spare capacity, and of what its items hold.
pub(crate) fn list_bytes<T: Wire>(items: &[T]) -> usize {
    size_of_val(items) + items.iter().map(T::heap_bytes).sum::<usize>()
}

fn items<T: Wire>(r: &mut Reader<'_>, n: usize, what: &'static str) -> Result<Vec<T>, EngineError> {
    let mut items = Vec::new();
    items.try_reserve_exact(n).map_err(|_| EngineError::Allocation {
        what: "the decoded program",
        needed: (n as u64).saturating_mul(size_of::<T>() as u64),
    })?;
    for _ in 0..n {
        items.push(T::read(r, what)?);
    }
    Ok(items)
}

/// Refuses a tag that names no variant.
pub(crate) fn unknown<T>(what: &'static str) -> Result<T, EngineError> {
    Err(DecodeError::Invalid(what).into())
}

/// Fields one after the other, in the order listed.
macro_rules! wire_struct {
    ($type:ident { $($field:ident: $of:ty),* $(,)? }) => {
        impl $crate::wire::Wire for $type {
            const MIN: usize = 0 $(+ <$of as $crate::wire::Wire>::MIN)*;

            fn write(&self, w: &mut cordon_codec::Writer) {
                $($crate::wire::Wire::write(&self.$field, w);)*
            }

            fn read(r: &mut cordon_codec::Reader<'_>, _: &'static str) -> Result<Self, $crate::EngineError> {
                Ok(Self { $($field: <$of as $crate::wire::Wire>::read(r, stringify!($field))?),* })
            }

            fn heap_bytes(&self) -> usize {
                0 $(+ $crate::wire::Wire::heap_bytes(&self.$field))*
            }
        }
    };
}

/// A one-byte tag, then the variant's fields in the order listed. Tags are part of the format: never reuse one. `min` is
/// the length of the shortest variant; without it the tag alone is counted on.
macro_rules! wire_enum {
    ($type:ident { $($variants:tt)* }) => {
        $crate::wire::wire_enum!($type, min 1, { $($variants)* });
    };
    ($type:ident, min $min:expr, { $($tag:literal => $variant:ident $({ $($field:ident),* $(,)? })?),* $(,)? }) => {
        impl $crate::wire::Wire for $type {
            const MIN: usize = $min;

            fn write(&self, w: &mut cordon_codec::Writer) {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        w.u8($tag);
                        $($($crate::wire::Wire::write($field, w);)*)?
                    })*
                }
            }

            #[deny(unreachable_patterns, reason = "two variants with one tag")]
            fn read(r: &mut cordon_codec::Reader<'_>, what: &'static str) -> Result<Self, $crate::EngineError> {
                Ok(match r.u8(what)? {
                    $($tag => Self::$variant $({
                        $($field: $crate::wire::Wire::read(r, stringify!($field))?),*
                    })?,)*
                    _ => return $crate::wire::unknown(what),
                })
            }

            fn heap_bytes(&self) -> usize {
                match self {
                    $(Self::$variant $({ $($field),* })? => 0 $($(+ $crate::wire::Wire::heap_bytes($field))*)?,)*
                }
            }
        }
    };
}

pub(crate) use {wire_enum, wire_struct};
