import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.packing import (
    BLOCK_SIZES,
    choose_block_size,
    pack_codes,
    pack_signs,
    pack_tiles,
    tile_bytes,
    unpack_codes,
    unpack_signs,
    unpack_tiles,
)

BITS = pytest.mark.parametrize("bits", [1, 2, 3, 4])


def random_codes(dim_out: int, num_vectors: int, bits: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, (dim_out, num_vectors), np.uint8)


def one_row(codes: list[int]) -> np.ndarray:
    return np.array([codes], np.uint8)


def bit(row: np.ndarray, position: int) -> int:
    return int(row[position // 8]) >> position % 8 & 1


def code_by_the_page(block: np.ndarray, index: int, bits: int, block_size: int) -> int:
    if bits != 3:
        return sum(bit(block, index * bits + b) << b for b in range(bits))
    high = block[block_size // 4 :]
    return bit(block, 2 * index) | bit(block, 2 * index + 1) << 1 | bit(high, index) << 2


@settings(deadline=None, max_examples=100)
@given(
    dim_out=st.integers(1, 9),
    num_vectors=st.integers(1, 400),
    bits=st.integers(1, 4),
    block_size=st.sampled_from(BLOCK_SIZES),
    seed=st.integers(0, 2**31),
)
def test_packed_codes_come_back(
    dim_out: int, num_vectors: int, bits: int, block_size: int, seed: int
) -> None:
    codes = random_codes(dim_out, num_vectors, bits, seed)
    packed = pack_codes(codes, bits, block_size)
    assert packed.dtype == np.uint8
    assert packed.shape == (dim_out, -(-num_vectors // block_size), block_size * bits // 8)
    unpacked = unpack_codes(packed, bits, num_vectors)
    assert unpacked.dtype == np.uint8
    assert np.array_equal(unpacked, codes)


@settings(deadline=None, max_examples=40)
@given(
    num_vectors=st.integers(1, 300),
    bits=st.integers(1, 4),
    block_size=st.sampled_from(BLOCK_SIZES),
    seed=st.integers(0, 2**31),
)
def test_every_code_lies_where_the_page_says(
    num_vectors: int, bits: int, block_size: int, seed: int
) -> None:
    codes = random_codes(2, num_vectors, bits, seed)
    packed = pack_codes(codes, bits, block_size)
    for n in range(2):
        for k in range(packed.shape[1] * block_size):
            block = packed[n, k // block_size]
            expected = codes[n, k] if k < num_vectors else 0
            assert code_by_the_page(block, k % block_size, bits, block_size) == expected


@given(st.lists(st.integers(0, 7), min_size=1, max_size=50))
@settings(deadline=None, max_examples=30)
def test_any_three_bit_codes_come_back(codes: list[int]) -> None:
    packed = pack_codes(one_row(codes), 3, 16)
    assert unpack_codes(packed, 3, len(codes)).tolist() == [codes]


def test_one_bit_by_hand() -> None:
    codes = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1]
    assert pack_codes(one_row(codes), 1, 16).tolist() == [[[0b00000001, 0b10001011]]]


def test_two_bits_by_hand() -> None:
    codes = [3, 0, 0, 0, 0, 1, 2, 3, 1, 1, 1, 1, 2, 0, 0, 2]
    expected = [0b00000011, 0b11100100, 0b01010101, 0b10000010]
    assert pack_codes(one_row(codes), 2, 16).tolist() == [[expected]]


def test_three_bits_by_hand() -> None:
    codes = [4, 5, 6, 7, 0, 1, 2, 3, 7, 0, 0, 0, 0, 0, 0, 4]
    low = [0b11100100, 0b11100100, 0b00000011, 0b00000000]
    high = [0b00001111, 0b10000001]
    assert pack_codes(one_row(codes), 3, 16).tolist() == [[low + high]]


def test_four_bits_by_hand() -> None:
    codes = [1, 2, 15, 0, 0, 15, 7, 8, 0, 0, 0, 0, 0, 0, 10, 11]
    expected = [0x21, 0x0F, 0xF0, 0x87, 0x00, 0x00, 0x00, 0xBA]
    assert pack_codes(one_row(codes), 4, 16).tolist() == [[expected]]


def test_three_bit_planes_belong_to_their_block() -> None:
    codes = [4] * 16 + [3] * 16
    first, second = [0, 0, 0, 0, 255, 255], [255, 255, 255, 255, 0, 0]
    assert pack_codes(one_row(codes), 3, 16).tolist() == [[first, second]]
    assert pack_codes(one_row(codes), 3, 32).tolist() == [
        [[0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0]]
    ]


@BITS
def test_padding_is_zero(bits: int) -> None:
    top = 2**bits - 1
    packed = pack_codes(np.full((2, 17), top, np.uint8), bits, 16)
    assert packed.shape == (2, 2, 2 * bits)
    padded = unpack_codes(packed, bits, 32)
    assert (padded[:, :17] == top).all()
    assert (padded[:, 17:] == 0).all()


@BITS
def test_codes_in_the_padding_are_ignored(bits: int) -> None:
    codes = random_codes(3, 32, bits)
    packed = pack_codes(codes, bits, 32)
    assert np.array_equal(unpack_codes(packed, bits, 21), codes[:, :21])


@BITS
def test_rows_are_independent(bits: int) -> None:
    codes = random_codes(5, 40, bits)
    packed = pack_codes(codes, bits, 16)
    for n in range(5):
        assert np.array_equal(packed[n : n + 1], pack_codes(codes[n : n + 1], bits, 16))


@BITS
def test_packing_reads_any_memory_order_and_writes_nothing(bits: int) -> None:
    codes = random_codes(40, 5, bits).T
    before = codes.copy()
    assert np.array_equal(pack_codes(codes, bits, 16), pack_codes(codes.copy(), bits, 16))
    assert np.array_equal(codes, before)


@BITS
def test_a_code_that_does_not_fit_is_refused(bits: int) -> None:
    codes = random_codes(2, 20, bits)
    codes[1, 13] = 2**bits
    with pytest.raises(ValueError, match=f"code {2**bits} does not fit into {bits} bits"):
        pack_codes(codes, bits, 16)
    codes[1, 13] = 2**bits - 1
    pack_codes(codes, bits, 16)


@settings(deadline=None, max_examples=200)
@given(num_vectors=st.integers(1, 100_000))
def test_block_size_is_the_largest_that_pads_no_more_than_sixteen(num_vectors: int) -> None:
    def padded(size: int) -> int:
        return -(-num_vectors // size) * size

    chosen = choose_block_size(num_vectors)
    assert chosen in (16, 32, 64, 128)
    assert padded(chosen) - num_vectors <= 15
    assert all(padded(size) > padded(16) for size in (32, 64, 128) if size > chosen)


@pytest.mark.parametrize(
    ("num_vectors", "block_size"),
    [
        (1, 16),
        (16, 16),
        (17, 32),
        (32, 32),
        (33, 16),
        (48, 16),
        (49, 64),
        (96, 32),
        (113, 128),
        (112, 16),
        (192, 64),
        (384, 128),
        (400, 16),
        (4096, 128),
    ],
)
def test_block_sizes_by_hand(num_vectors: int, block_size: int) -> None:
    assert choose_block_size(num_vectors) == block_size


def test_signs_by_hand() -> None:
    signs = np.array([1, -1, 1, 1, 1, 1, 1, -1, -1, 1, -1], np.int8)
    assert pack_signs(signs).tolist() == [0b10000010, 0b00000101]


def test_bits_beyond_the_last_sign_are_zero() -> None:
    assert pack_signs(np.full(9, -1, np.int8)).tolist() == [255, 1]
    assert pack_signs(np.ones(9, np.int8)).tolist() == [0, 0]


@settings(deadline=None, max_examples=50)
@given(signs=st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=100))
def test_packed_signs_come_back(signs: list[int]) -> None:
    packed = pack_signs(np.array(signs, np.int8))
    assert packed.dtype == np.uint8
    assert packed.shape == (-(-len(signs) // 8),)
    unpacked = unpack_signs(packed, len(signs))
    assert unpacked.dtype == np.int8
    assert unpacked.tolist() == signs


def test_sign_bits_beyond_the_dimension_are_ignored() -> None:
    assert unpack_signs(np.array([0b11111101], np.uint8), 3).tolist() == [-1, 1, -1]


@BITS
@settings(deadline=None, max_examples=15)
@given(strips=st.integers(1, 3), tiles=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_packed_tiles_come_back(bits: int, strips: int, tiles: int, seed: int) -> None:
    codes = random_codes(64 * strips, 4 * tiles, bits, seed)
    packed = pack_tiles(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (strips, tiles, 32 * bits)
    assert packed.nbytes == tile_bytes(*codes.shape, bits)
    unpacked = unpack_tiles(packed, bits)
    assert unpacked.dtype == np.uint8
    assert np.array_equal(unpacked, codes)


@BITS
def test_every_code_of_a_tile_lies_where_the_page_says(bits: int) -> None:
    codes = random_codes(128, 12, bits)
    packed = pack_tiles(codes, bits)
    for n, k in np.ndindex(codes.shape):
        words = packed[n // 64, k // 4].view("<u2")
        stream = "".join(f"{word:016b}" for word in words)
        place = (4 * (n % 64) + k % 4) * bits
        assert int(stream[place : place + bits], 2) == codes[n, k]


def test_a_tile_by_hand() -> None:
    codes = np.zeros((64, 4), np.uint8)
    codes[0] = [3, 0, 2, 1]
    codes[1] = [1, 1, 0, 0]
    codes[63, 3] = 2
    expected = [0b01010000, 0b11001001] + [0] * 60 + [0b00000010, 0]
    assert pack_tiles(codes, 2).tolist() == [[expected]]


@BITS
def test_bytes_of_tiles_are_whole_ones(bits: int) -> None:
    assert tile_bytes(1, 1, bits) == tile_bytes(64, 4, bits) == 32 * bits
    assert tile_bytes(65, 9, bits) == 2 * 3 * 32 * bits
