"""For Cython: `from fastbp cimport fastbp_network`, with `fastbp.get_include()` on the way."""

from fastbp.engine.native cimport (
    FASTBP_BAD_LABEL, FASTBP_NEEDS_PYTHON, FASTBP_NO_MEMORY, FASTBP_NO_STATISTICS,
    FASTBP_NOT_FINITE, FASTBP_OK, FASTBP_READ_ONLY, FASTBP_VERSION, FASTBP_WRONG_TYPE,
    fastbp_learn_f32, fastbp_learn_f64, fastbp_learn_label_f32, fastbp_learn_label_f64,
    fastbp_network, fastbp_predict_f32, fastbp_predict_f64,
)
