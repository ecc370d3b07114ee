//! Identity: stored elements are the source elements, bit for bit (format-spec 9.1).

use super::{
    Block, QuantId, QuantParams, Quantized, Quantizer, Scales, elements_of, wrong_length,
    wrong_params,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::convert::convert;

pub(super) struct Identity;

impl Quantizer for Identity {
    fn id(&self) -> QuantId {
        QuantId::IDENTITY
    }

    fn name(&self) -> &'static str {
        "identity"
    }

    fn parse(&self, params: &[u8]) -> Result<QuantParams> {
        if !params.is_empty() {
            return Err(Error::corrupt(
                "parameters of quantizer identity",
                "none",
                format!("{params:?}"),
            ));
        }
        Ok(QuantParams::Identity)
    }

    fn emit(&self, _params: &QuantParams, _out: &mut Vec<u8>) {}

    fn check(&self, params: &QuantParams, _dtype: DType, _rank: Option<usize>) -> Result<()> {
        match params {
            QuantParams::Identity => Ok(()),
            _ => Err(wrong_params("identity", params)),
        }
    }

    fn stored_bits(&self, _params: &QuantParams, dtype: DType) -> u32 {
        super::bits_of(dtype)
    }

    fn quantize(
        &self,
        _params: &QuantParams,
        dtype: DType,
        shape: &[usize],
        num_samples: usize,
        src: &[u8],
        _statics: Option<&Scales>,
        out: &mut Quantized,
    ) -> Result<()> {
        let n = elements_of(dtype, shape, num_samples, src)?;
        out.codes.extend_from_slice(src);
        out.num_samples += num_samples as u64;
        out.num_elements += (n * num_samples) as u64;
        Ok(())
    }

    fn dequantize(
        &self,
        _params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
        dst: &mut [u8],
    ) -> Result<()> {
        let len = block.count.saturating_mul(block.dtype.size());
        if block.codes.len() != len {
            return Err(wrong_length("stored elements", len, block.codes.len()));
        }
        convert(block.dtype, block.codes, dtype_out, dst)
    }
}
