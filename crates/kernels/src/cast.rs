//! Conversions between element types. Input and output have the same length.

/// Truncates toward zero and saturates; NaN gives 0.
pub fn f32_to_i64(input: &[f32], out: &mut [i64]) {
    convert(input, out, |x| x as i64);
}

/// Whether nonzero; NaN is.
pub fn f32_to_bool(input: &[f32], out: &mut [u8]) {
    convert(input, out, |x| u8::from(x != 0.0));
}

/// Nearest representable, ties to even.
pub fn i64_to_f32(input: &[i64], out: &mut [f32]) {
    convert(input, out, |x| x as f32);
}

/// Whether nonzero.
pub fn i64_to_bool(input: &[i64], out: &mut [u8]) {
    convert(input, out, |x| u8::from(x != 0));
}

/// 0 or 1; any nonzero byte counts as true.
pub fn bool_to_f32(input: &[u8], out: &mut [f32]) {
    convert(input, out, |x| if x != 0 { 1.0 } else { 0.0 });
}

/// 0 or 1; any nonzero byte counts as true.
pub fn bool_to_i64(input: &[u8], out: &mut [i64]) {
    convert(input, out, |x| i64::from(x != 0));
}

fn convert<T: Copy, U>(input: &[T], out: &mut [U], f: impl Fn(T) -> U) {
    assert_eq!(input.len(), out.len(), "validated: cast's input is as long as its output");
    for (to, &from) in out.iter_mut().zip(input) {
        *to = f(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners() {
        let mut i = [7i64; 8];
        f32_to_i64(&[1.9, -1.9, f32::NAN, 1e30, -1e30, f32::INFINITY, 0.0, -0.5], &mut i);
        assert_eq!(i, [1, -1, 0, i64::MAX, i64::MIN, i64::MAX, 0, 0]);
        let mut b = [7u8; 5];
        f32_to_bool(&[0.0, -0.0, f32::NAN, 1e-45, 2.0], &mut b);
        assert_eq!(b, [0, 0, 1, 1, 1]);
        i64_to_bool(&[0, 1, -1, i64::MIN, 256], &mut b);
        assert_eq!(b, [0, 1, 1, 1, 1]);
        let mut f = [7f32; 3];
        i64_to_f32(&[16_777_217, -3, i64::MAX], &mut f);
        assert_eq!(f, [16_777_216.0, -3.0, 9_223_372_036_854_775_807.0]);
        bool_to_f32(&[0, 1, 255], &mut f);
        assert_eq!(f, [0.0, 1.0, 1.0]);
        let mut j = [7i64; 3];
        bool_to_i64(&[0, 1, 255], &mut j);
        assert_eq!(j, [0, 1, 1]);
    }
}
