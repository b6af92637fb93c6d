"""One held-out digit, a seven: the example that the functions' schemas give."""

SEVEN = [
    [0, 0, 2, 13, 16, 9, 0, 0],
    [0, 0, 12, 12, 7, 16, 3, 0],
    [0, 1, 14, 3, 0, 16, 4, 0],
    [0, 0, 0, 4, 10, 16, 6, 0],
    [0, 0, 0, 13, 16, 16, 9, 0],
    [0, 0, 0, 5, 13, 1, 0, 0],
    [0, 0, 0, 11, 9, 0, 0, 0],
    [0, 0, 1, 16, 4, 0, 0, 0],
]

SEVEN_PNG = (  # the same as a picture of 8x8, in base64 as JSON carries bytes
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAARElEQVR42gXBARGAIBAAwRsSEMEIH+Gr2IAmZjCBEYhABGzwNjh3"
    "0R0MRTMvlljHkmmj7+/kBTVgiPpEaQPu7IAWU/0Be+4mFKR+5mEAAAAASUVORK5CYII="
)
