"""Writes what others' statistics say of many series, for monitor/tests/trend.rs to agree with.

    python3 -m venv target/oracles
    target/oracles/bin/pip install pymannkendall==1.4.3 scipy==1.17.1
    target/oracles/bin/python tests/oracles/trend.py > monitor/tests/vectors/trend.json

pymannkendall (Hussain and Mahmud 2019) tests for trends; scipy has Sen's slope with its interval, Kendall's tau and
least squares. The series are drawn from a fixed seed, so that running it again changes nothing but digits
in which versions differ. None of the code tested here had a part in any of these numbers.
"""

import json
import math
import sys
import warnings

import numpy
import pymannkendall
from scipy import stats

warnings.simplefilter("ignore")
random = numpy.random.default_rng(20170904)


def autocorrelated(count, memory, drift):
    """An AR(1) process: each value remembers `memory` of the one before."""
    values, last = [], 0.0
    for at in range(count):
        last = memory * last + random.normal()
        values.append(last + drift * at)
    return values


def series():
    for count in (2, 3, 4, 5, 7, 10, 12, 23, 36, 56, 97):
        yield f"noise of {count}", random.normal(size=count)
        yield f"noise of {count} that rises", random.normal(size=count) + 0.3 * numpy.arange(count)
        yield f"{count} with ties", random.integers(0, 4, size=count).astype(float)
        yield f"{count} constant", numpy.full(count, 7.0)
        yield f"{count} but one constant", numpy.append(numpy.full(count - 1, 7.0), 9.0)
        yield f"steps of {count}", numpy.floor(numpy.arange(count) / 3.0)
        yield f"{count} falling", random.normal(size=count) - 0.5 * numpy.arange(count)
        # A little noise, for which of two equal ranks of what is left of a line is the lesser is up to rounding.
        yield f"sawtooth of {count}", numpy.arange(count) % 5 + random.normal(size=count) / 100
        yield f"bytes, {count}", numpy.floor(2.0e9 + numpy.cumsum(random.poisson(3, size=count)) * 4096.0)
    for memory in (-0.8, -0.4, 0.3, 0.6, 0.9, 0.99):
        for drift in (0.0, 0.05, 0.5):
            yield f"memory {memory}, drift {drift}", autocorrelated(48, memory, drift)
    for shift in (1e-9, 1e9):
        yield f"around {shift}", random.normal(size=30) * shift + shift
    yield "two points, equal", [4.0, 4.0]


def number(value):
    value = float(value)
    return value if math.isfinite(value) else None


def test_for_trend(result):
    return {"score": number(result.s), "variance": number(result.var_s), "z": number(result.z), "p": number(result.p)}


def sen(values, at, confidence):
    slope, intercept, lower, upper = stats.theilslopes(values, at, alpha=confidence)
    return {
        "confidence": confidence,
        "slope": number(slope),
        "intercept": number(intercept),
        "lower": number(lower),
        "upper": number(upper),
    }


def vectors():
    for name, values in series():
        values = [float(value) for value in values]
        # Times that are not equally far apart, some of them equal.
        at = [float(time) for time in numpy.cumsum(random.choice([0.0, 0.5, 1.0, 7.0], size=len(values)))]
        at[-1] = at[-1] + 1.0
        line = stats.linregress(at, values)
        yield {
            "name": name,
            "at": at,
            "values": values,
            "mann_kendall": test_for_trend(pymannkendall.original_test(values)),
            "hamed_rao": test_for_trend(pymannkendall.hamed_rao_modification_test(values)) if len(values) > 2 else None,
            "seasonal_score": number(pymannkendall.seasonal_test(values, period=4).s) if len(values) > 8 else None,
            "tau": number(stats.kendalltau(range(len(values)), values).statistic),
            "sen": [sen(values, at, confidence) for confidence in (0.9, 0.95, 0.99)],
            "seasonal_slope": number(pymannkendall.seasonal_sens_slope(numpy.array(values), period=4).slope) if len(values) > 8 else None,
            "ols": {
                "slope": number(line.slope),
                "intercept": number(line.intercept),
                "slope_error": number(line.stderr),
                "correlation": number(line.rvalue),
            },
        }


quantiles = [[p, float(stats.norm.ppf(p))] for p in (1e-12, 1e-3, 0.1, 0.5, 0.9, 0.999)]
lines = ",\n".join(json.dumps(vector) for vector in vectors())
sys.stdout.write(f'{{"quantiles": {json.dumps(quantiles)}, "series": [\n{lines}\n]}}\n')
