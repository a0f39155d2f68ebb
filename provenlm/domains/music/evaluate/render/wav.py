"""Write and read WAV files of 16-bit PCM and of 8-bit mu-law.

Browsers play mu-law (ITU-T G.711) too, at half the size.
"""

import io
import struct
import wave

import numpy as np
from numpy.typing import NDArray

from provenlm.core.errors import DataError
from provenlm.domains.music.evaluate.render.synthesizer import Samples

MU_LAW_FORMAT, MU_LAW_BIAS, MU_LAW_CLIP = 7, 132, 32635


def encode_pcm16(samples: Samples, sample_rate: int) -> bytes:
    """Return mono samples in [-1, 1] as a WAV file of 16 bits a sample."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(_to_int16(samples).astype("<i2").tobytes())
    return buffer.getvalue()


def encode_mu_law(samples: Samples, sample_rate: int) -> bytes:
    """Return mono samples in [-1, 1] as a WAV file of 8 bits, in mu-law."""
    codes = mu_law_codes(_to_int16(samples)).tobytes()
    fields = (MU_LAW_FORMAT, 1, sample_rate, sample_rate, 1, 8, 0)
    format_chunk = b"fmt " + struct.pack("<IHHIIHHH", 18, *fields)
    fact_chunk = b"fact" + struct.pack("<II", 4, len(codes))
    data_chunk = b"data" + struct.pack("<I", len(codes)) + codes + b"\0" * (len(codes) % 2)
    body = b"WAVE" + format_chunk + fact_chunk + data_chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mu_law_codes(values: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Encode 16-bit samples by G.711.

    A code is sign, exponent and four bits of mantissa, all inverted.
    """
    magnitude = np.minimum(np.abs(values.astype(np.int32)), MU_LAW_CLIP) + MU_LAW_BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    sign = np.where(values < 0, 0x80, 0)
    codes: NDArray[np.uint8] = (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8)
    return codes


def decode_pcm16(content: bytes) -> tuple[Samples, int]:
    """Return the samples of a 16-bit WAV file, mixed to mono, and their rate.

    Raises DataError for another file.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            if file.getsampwidth() != 2:
                raise wave.Error(f"sample width must be 2 bytes, got {file.getsampwidth()}")
            frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
            return (frames.mean(1) / 32768).astype(np.float32), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise DataError(f"audio must be a 16-bit WAV file, got {len(content)} bytes: {error}") from None


def _to_int16(samples: Samples) -> NDArray[np.int16]:
    return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
