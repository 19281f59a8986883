//! Order statistics: timings are skewed, so nothing here is a mean.

/// A median with its quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Spread {
    /// `None` without values.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let at = |q| quantile(values, q);
        Some(Self { median: at(0.5)?, low: at(0.25)?, high: at(0.75)? })
    }

    /// Of `values[i] / base[i]`: what ran in the same round saw the same machine, so its drift cancels.
    pub(super) fn of_ratios(values: &[f64], base: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = values.iter().zip(base).filter(|(_, base)| **base > 0.0).map(|(v, b)| v / b).collect();
        Self::of(&ratios)
    }

    /// `low..high`.
    pub(super) fn range(&self, decimals: usize) -> String {
        format!("{:.decimals$}..{:.decimals$}", self.low, self.high)
    }
}

/// The middle value; not a number without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5).unwrap_or(f64::NAN)
}

/// Linear interpolation between order statistics.
fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted.get(position.floor() as usize)?, sorted.get(position.ceil() as usize)?);
    Some(low + (high - low) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(Spread::of(&[1.0, 2.0, 3.0, 4.0, 5.0]), Some(Spread { median: 3.0, low: 2.0, high: 4.0 }));
        assert!(median(&[]).is_nan() && Spread::of(&[]).is_none());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine became three times slower in the middle: the medians alone would say 2 / 3.
        let ratios = Spread::of_ratios(&[2.0, 2.0, 6.0], &[1.0, 3.0, 3.0]);
        assert_eq!(ratios.map(|ratio| ratio.median), Some(2.0));
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), None);
    }
}
