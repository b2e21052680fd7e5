"""The report of a run: one HTML file with its curves, scores, and best and worst clips, that opens without a network.

run_folder     what the run left: settings, log, scores, predictions, weights
ranking        how well each clip was said, and where its text differs
clip_view      what is to be seen of a clip: skeleton, hand crops, sampled frames
fusion_probe   gates and sampling points, out of the model
charts         curves as the numbers of an SVG
clip_figures   a clip's view as the numbers of its pictures; pictures: as text inside the page
published      the paper's scores
page           all of it, through page.html.j2, into one file with style.css and script.js
"""
