"""How a model becomes a `.tflite` file: conversion, int8 rounding, edits of the file, metadata."""
