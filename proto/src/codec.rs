//! prost's codec with buffers that begin small: a server holds two for every idle agent, and tonic's own
//! begin at 8 KiB.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Bytes a stream's buffer begins with, about a heartbeat; it grows with what is sent.
const FIRST_BYTES: usize = 256;
/// Encoded bytes handed to HTTP/2 at a time, as in tonic.
const YIELD_BYTES: usize = 32 << 10;

/// Encodes and decodes as [`tonic_prost::ProstCodec`] does.
#[derive(Debug, Clone)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(FIRST_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(FIRST_BYTES, YIELD_BYTES))
    }
}
