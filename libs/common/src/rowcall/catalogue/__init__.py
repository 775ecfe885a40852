"""The catalogue: which gRPC methods are job types, and their policy, read from descriptor images.

Here: `images` (the catalogue of served methods, and how it is loaded), from `files` (an image as one descriptor pool), `methods` (those
with our option), `policy` (the option, its defaults and bounds) and `inert` (options that would do nothing, refused); `model` (a method
and its policy as values, with the defaults' numbers); `access` (the rules that images give their methods), `grants` (who may call each
method, with ours, and what images may not grant), `served` (the settings of what is served and to whom); `requests` (a call's request decoded, and its fingerprint); `shapes` (what
shards must know of messages to compare them); `clashes` (what two images define differently of one method); `changes` (what an image changes for callers that takes
another's place); `described` (files as reflection tells them); `errors` (what can be wrong
with an image). Used by gateway, worker and command line.
"""
