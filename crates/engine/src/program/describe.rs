//! How the description of the instructions becomes code.
//!
//! [`instructions!`] takes one entry for each instruction:
//!
//! ```text
//! /// What it computes.
//! TAG => Name {
//!     /// What the field means, where role, type and rule do not say it.
//!     ROLE field: Type = RULE,
//!     …
//! } work OPERATIONS,
//! ```
//!
//! `TAG` is the first byte of the encoding, part of the format and never used again for another instruction. The fields
//! follow it in the order listed, each as [`Wire`](crate::wire::Wire) writes its type.
//!
//! | role | type | meaning |
//! |---|---|---|
//! | `plain` | any | A number, a choice or a shape. It has no rule here: `validate/instruction.rs` checks it. |
//! | `read` | any [`Memory`] | Memory that is read. The written region does not overlap it. |
//! | `read(in_place)` | any [`Memory`] | The same, but the written region may be exactly this one. |
//! | `read(in_place if CONDITION)` | any [`Memory`] | The same where `CONDITION` holds. |
//! | `write` | [`Region`] | The memory that is written: one field of every instruction, the last. |
//! | `take` | [`Region`] | Instead of `write`: memory that is read, and whose value is gone afterwards. |
//!
//! `RULE` is [`exactly`], [`reaches`] or [`any`]; `OPERATIONS` is an `Option<u64>`, `None` when it overflows. They and
//! `CONDITION` are ordinary expressions that see every field of the instruction as a reference.
//!
//! From this follow: the type itself with its documentation, the encoding, [`Instruction::name`],
//! [`Instruction::out`], [`Instruction::reads`], [`Instruction::memory_mut`], and for validation `rules` and `work`.

use super::{DType, Operand, QResidual, Region, Tile};

/// Something an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Name of the field.
    pub field: &'static str,
    /// What is read.
    pub operand: Operand,
    /// Whether the written region may be exactly this one.
    pub in_place: bool,
}

/// Memory that an instruction names, to be changed.
#[derive(Debug, PartialEq, Eq)]
pub enum MemoryMut<'a> {
    /// A region of the arena.
    Region(&'a mut Region),
    /// A tile of a weight tensor.
    Tile(&'a mut Tile),
}

/// A field that names memory.
pub(crate) trait Memory: Copy {
    /// The memory, if the field names any, to be changed.
    fn memory_mut(&mut self) -> Option<MemoryMut<'_>>;

    /// The memory, if the field names any.
    fn operand(mut self) -> Option<Operand> {
        self.memory_mut().map(|memory| match memory {
            MemoryMut::Region(region) => Operand::Arena(*region),
            MemoryMut::Tile(tile) => Operand::Weight(*tile),
        })
    }
}

impl Memory for Region {
    fn memory_mut(&mut self) -> Option<MemoryMut<'_>> {
        Some(MemoryMut::Region(self))
    }
}

impl Memory for Tile {
    fn memory_mut(&mut self) -> Option<MemoryMut<'_>> {
        Some(MemoryMut::Tile(self))
    }
}

impl Memory for Operand {
    fn memory_mut(&mut self) -> Option<MemoryMut<'_>> {
        match self {
            Self::Arena(region) => region.memory_mut(),
            Self::Weight(tile) => tile.memory_mut(),
        }
    }
}

impl Memory for QResidual {
    fn memory_mut(&mut self) -> Option<MemoryMut<'_>> {
        self.from.memory_mut()
    }
}

impl<T: Memory> Memory for Option<T> {
    fn memory_mut(&mut self) -> Option<MemoryMut<'_>> {
        self.as_mut().and_then(T::memory_mut)
    }
}

/// What the memory of a field must be, beside lying where there is memory.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// Element type; `None`: any that `validate/instruction.rs` does not refuse.
    pub(crate) dtype: Option<DType>,
    pub(crate) len: Len,
}

/// Elements; a length of `None` is a shape that is malformed or overflows.
#[derive(Clone, Copy)]
pub(crate) enum Len {
    /// So many.
    Exactly(Option<u64>),
    /// So many or more, and at least one.
    Reaches(Option<u64>),
    /// Any number but zero.
    Any,
}

/// Any element type.
pub(crate) const ANY: Option<DType> = None;

/// Of this type, and exactly this long.
pub(crate) fn exactly(dtype: impl Into<Option<DType>>, len: Option<u64>) -> Rule {
    Rule { dtype: dtype.into(), len: Len::Exactly(len) }
}

/// Of this type, with every element that a strided access reaches: the last of them is number `len`, from 1.
pub(crate) fn reaches(dtype: impl Into<Option<DType>>, len: Option<u64>) -> Rule {
    Rule { dtype: dtype.into(), len: Len::Reaches(len) }
}

/// Of any type and length.
pub(crate) fn any() -> Rule {
    Rule { dtype: ANY, len: Len::Any }
}

/// Most fields of an instruction. More do not compile.
const MOST_FIELDS: usize = 9;

/// One entry for each field, with room for those of the longest instruction.
pub(crate) fn padded<T, const N: usize>(fields: [Option<T>; N]) -> [Option<T>; MOST_FIELDS] {
    const { assert!(N <= MOST_FIELDS, "raise MOST_FIELDS") };
    let mut fields = fields.into_iter();
    core::array::from_fn(|_| fields.next().flatten())
}

/// The shortest of several encodings.
pub(crate) const fn shortest(lengths: &[usize]) -> usize {
    match lengths {
        [] => usize::MAX,
        [first, rest @ ..] => {
            let rest = shortest(rest);
            if *first < rest { *first } else { rest }
        }
    }
}

/// The field of an operand that is read, by role; `None` for the others.
macro_rules! read {
    (plain $field:ident) => { None };
    (write $field:ident) => { None };
    (take $field:ident) => { read!(@ $field, true) };
    (read $field:ident) => { read!(@ $field, false) };
    (read(in_place) $field:ident) => { read!(@ $field, true) };
    (read(in_place if $condition:expr) $field:ident) => { read!(@ $field, $condition) };
    (@ $field:ident, $in_place:expr) => {
        $field.operand().map(|operand| Read { field: stringify!($field), operand, in_place: $in_place })
    };
}

/// The field's memory and rule; `None` for a plain field, which has neither.
macro_rules! rule {
    (plain $field:ident) => {
        None
    };
    ($role:ident $field:ident = $rule:expr) => {
        $field.operand().map(|operand| (stringify!($field), operand, $rule))
    };
}

/// Shows the field's memory to `visit`.
macro_rules! visit {
    (plain $field:ident, $visit:ident) => {};
    ($role:ident $field:ident, $visit:ident) => {
        $field.memory_mut().into_iter().for_each(&mut $visit)
    };
}

/// Returns the field if it is the written region.
macro_rules! return_written {
    (write $($field:tt)*) => { return $($field)* };
    (take $($field:tt)*) => { return $($field)* };
    ($($other:tt)*) => {};
}

/// See the module's text.
macro_rules! instructions {
    ($(
        $(#[$doc:meta])*
        $tag:literal => $name:ident {
            $(
                $(#[$field_doc:meta])*
                $role:ident $(($($how:tt)*))? $field:ident: $type:ty $(= $rule:expr)?
            ),* $(,)?
        } work $work:expr
    ),* $(,)?) => {
        /// One operation. Each field says its role and its rule, in the words of `program/describe.rs`.
        ///
        /// The compiler copies instructions when it cuts one into several; `Debug` shows the name alone.
        #[derive(Clone, PartialEq)]
        pub enum Instruction {
            $(
                $(#[$doc])*
                $name {
                    $(
                        $(#[$field_doc])*
                        #[doc = concat!("\n\n`", stringify!($role $(($($how)*))? $(= $rule)?), "`")]
                        $field: $type
                    ),*
                }
            ),*
        }

        wire_enum!(Instruction, min shortest(&[$(1 $(+ <$type as Wire>::MIN)*),*]), {
            $($tag => $name { $($field),* }),*
        });

        #[allow(unused_variables, reason = "every arm names all fields, and uses those of some roles")]
        impl Instruction {
            /// The names of all variants, in the order of their tags.
            pub const NAMES: &[&'static str] = &[$(stringify!($name)),*];

            /// The variant's name, for messages.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => stringify!($name)),*
                }
            }

            /// The region written, or that of a value that is taken.
            pub fn out(&self) -> Region {
                match self {
                    $(Self::$name { $($field),* } => { $(return_written!($role *$field);)* })*
                }
            }

            /// [`Self::out`], to be changed.
            pub fn out_mut(&mut self) -> &mut Region {
                match self {
                    $(Self::$name { $($field),* } => { $(return_written!($role $field);)* })*
                }
            }

            /// Everything read, in the order of the fields.
            pub fn reads(&self) -> impl Iterator<Item = Read> + use<> {
                let reads = match self {
                    $(Self::$name { $($field),* } => padded([$(read!($role $(($($how)*))? $field)),*])),*
                };
                reads.into_iter().flatten()
            }

            /// Shows `visit` every region and tile, [`Self::out`] included, once each.
            pub fn memory_mut(&mut self, mut visit: impl FnMut(MemoryMut<'_>)) {
                match self {
                    $(Self::$name { $($field),* } => { $(visit!($role $field, visit);)* })*
                }
            }

            /// The rule of every field that names memory.
            pub(crate) fn rules(&self) -> impl Iterator<Item = (&'static str, Operand, Rule)> + use<> {
                let rules = match self {
                    $(Self::$name { $($field),* } => padded([$(rule!($role $field $(= $rule)?)),*])),*
                };
                rules.into_iter().flatten()
            }

            /// Elementary operations it takes; `None` when their number overflows.
            pub(crate) fn work(&self) -> Option<u64> {
                match self {
                    $(Self::$name { $($field),* } => $work),*
                }
            }
        }
    };
}
