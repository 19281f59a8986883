//! Operators that only engines of the normal world run, as far as plans must know more of them than their names.

use super::Operator;
use super::facts::{Bytes, Facts};

const CONTRIB: &str = "com.microsoft";

pub(super) const OPERATORS: &[Operator] = &[
    // Products.
    normal("", "ConvInteger").weights(&[1]),
    normal("", "DeformConv").weights(&[1]),
    normal("", "Einsum").weights(&[0, 1]),
    normal("", "MatMulInteger").weights(&[0, 1]),
    normal(CONTRIB, "FusedConv").weights(&[1]),
    normal(CONTRIB, "FusedGemm").weights(&[0, 1]),
    normal(CONTRIB, "FusedMatMul").weights(&[0, 1]),
    normal(CONTRIB, "MatMulNBits").weights(&[1]),
    // Recurrent cells: input and recurrence weights.
    normal("", "LSTM").weights(&[1, 2]),
    normal("", "GRU").weights(&[1, 2]),
    normal("", "RNN").weights(&[1, 2]),
    normal(CONTRIB, "Attention").weights(&[1]),
    // Quantised arithmetic.
    normal("", "DynamicQuantizeLinear").bytes(Bytes::Quantise),
    requantises("QLinearAdd"),
    requantises("QLinearAveragePool"),
    requantises("QLinearConcat"),
    requantises("QLinearGlobalAveragePool"),
    requantises("QLinearLeakyRelu"),
    requantises("QLinearMul"),
    requantises("QLinearReduceMean"),
    requantises("QLinearSigmoid"),
    requantises("QLinearSoftmax"),
    requantises("QLinearWhere"),
    requantises("QLinearConv").layer(&[3]),
];

const fn normal(domain: &'static str, op_type: &'static str) -> Operator {
    Operator { op_type, domain, opsets: (1, i64::MAX), shape: None, lower: None, facts: Facts::UNKNOWN }
}

const fn requantises(op_type: &'static str) -> Operator {
    normal(CONTRIB, op_type).bytes(Bytes::Requantise)
}
